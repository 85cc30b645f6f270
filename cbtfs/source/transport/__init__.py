"""Transports, which read the disks of a vSphere snapshot; nothing here uses SOAP."""
