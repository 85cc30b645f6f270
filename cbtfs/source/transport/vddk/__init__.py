"""The vddk transport: VMware's library, in one child process per disk.

`abi`, `library`, `frame`, `redact` and `child` also run in the child, whose library path starts
with VMware's libraries. They must not import anything that is linked with OpenSSL or libstdc++.
"""
