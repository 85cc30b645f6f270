"""VMs, hosts, datastores and disks, as the server describes them."""
