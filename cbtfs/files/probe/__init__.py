"""What is on a volume, and whether it can be read as it is: bounded, from any bytes."""
