"""The vddk transport: VMware's own library, in a child process for each disk.

`abi`, `library`, `frame`, `redact` and `child` run in the child too, where VMware's libraries come
first: they import nothing that is linked with OpenSSL or libstdc++.
"""
