"""QEMU as a child: the storage daemon, guests, and their images."""
