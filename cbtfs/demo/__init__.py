"""A demonstration: capture the disk of a guest on four days, read it back and compare it."""
