"""Give back the space of what no restore point needs."""
