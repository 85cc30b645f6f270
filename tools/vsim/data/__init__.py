"""Disk data: files of datastores, NBD exports, streamOptimized VMDKs."""
