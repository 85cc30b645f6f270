"""NFC, ESXi's own protocol for disks on port 902, without VMware's library.

The codec makes no system calls: `lines` reads the daemon's text, `classic` the negotiation, `codec`
the records of an AIO session. Above it are `ticket` (permission from the server), `channel` (TCP
and TLS), `host` (from the greeting to AIO), `session` (one open disk), `window` (requests in flight
of a host), `disk` (a reader that reopens the disk after failures) and `transport`.
"""
