"""The content of a volume and its state: bounded, from any bytes."""
