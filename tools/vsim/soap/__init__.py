"""SOAP over HTTPS: requests in, replies and faults out, with pyVmomi's types and serialiser."""
