"""Copies of restore points in another repository."""
