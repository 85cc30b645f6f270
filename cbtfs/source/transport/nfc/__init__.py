"""NFC, ESXi's own protocol for disks on port 902: the codec, which makes no system calls.

`lines` reads the daemon's text, `classic` the negotiation, `codec` the records of an AIO session.
No transport uses them yet.
"""
