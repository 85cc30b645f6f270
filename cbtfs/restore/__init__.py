"""Restore: one disk at one restore point, into a raw file or onto a block device."""
