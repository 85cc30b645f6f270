"""Overlays: the disks of a restore point as one writable set, kept outside the repository."""
