"""Other forms of the disks of a point: slices, qcow2 images, VMDK descriptors."""
