"""A C library with the ABI of VMware's VDDK that reads the simulator's disks."""
