"""Reader of ext2, ext3 and ext4. Pure: all bytes come from a guest."""
