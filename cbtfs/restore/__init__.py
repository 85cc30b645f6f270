"""Restore of one disk at one restore point to a raw file, a block device or a pipe."""
