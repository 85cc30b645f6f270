"""Create, find and remove the snapshots of a VM, and read their disks."""
