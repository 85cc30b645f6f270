"""How the bytes of a vSphere snapshot's disks travel; knows nothing of SOAP."""
