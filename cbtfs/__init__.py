"""Capture virtual disks with Changed Block Tracking; read every restore point as a raw file."""

__version__ = "0.1.0"
