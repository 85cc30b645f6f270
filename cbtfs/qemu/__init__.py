"""QEMU as a child: the storage daemon, and what its commands share."""
