"""Partitions and LVM2 volumes of disks. Pure: bytes in, extents out; the bytes are untrusted."""
