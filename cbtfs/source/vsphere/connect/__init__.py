"""The connection to a vCenter or ESXi: TLS, login, tasks, faults, retries."""
