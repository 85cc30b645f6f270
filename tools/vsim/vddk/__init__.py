"""A library with the ABI of VMware's VDDK, in C, that reads the simulator's disks."""
