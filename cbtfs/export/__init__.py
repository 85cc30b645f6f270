"""Restore points as NBD exports, read-only."""
