"""LVM2: labels of physical volumes, the text of a volume group, logical volumes."""
