"""What stands in the way of backing VMs up, and what to do about it. Nothing is changed."""
