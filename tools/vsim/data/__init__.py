"""Bytes: files of datastores over HTTPS, snapshots over NBD."""
