"""The servers that clients connect to: HTTPS for SOAP, files and operations; the VDDK library's."""
