"""SOAP requests, replies and faults, with pyVmomi's types and serialiser; certificates."""
