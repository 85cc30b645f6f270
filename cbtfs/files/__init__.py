"""Files inside the disks of a point, read without the host's kernel."""
