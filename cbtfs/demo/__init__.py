"""The main job on an embedded default: a guest disk, captured day by day, read back, compared."""
