"""The state of watched VMs: property updates in, events out; pure."""
