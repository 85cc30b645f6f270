"""Capture several VMs at once, within limits per host and datastore."""
