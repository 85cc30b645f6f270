"""The nfc transport: ESXi's own protocol for disks, over port 902, without VMware's library.

`wire`, `lines`, `classic`, `fragments` and `codec` make no system calls: bytes in, events out.
`ticket` asks the server for a ticket, `session` opens a disk with it, `reader` reads the disk.
"""
