"""Snapshots of a VM: create, find, remove; the disks in them."""
