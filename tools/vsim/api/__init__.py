"""The managed objects that clients talk to: a class for each type, methods by WSDL name."""
