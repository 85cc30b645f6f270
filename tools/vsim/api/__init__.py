"""Managed objects of the vSphere API: one class per type, with methods named as in the WSDL."""
