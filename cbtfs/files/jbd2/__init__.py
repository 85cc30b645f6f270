"""The journal of ext3 and ext4, replayed as a read overlay.

Sources of the format: Linux, Documentation/filesystems/ext4/journal.rst and fs/jbd2/recovery.c;
e2fsprogs 1.47, e2fsck/recovery.c and e2fsck/journal.c. The result equals that of
`e2fsck -E journal_only`: tests/files/jbd2/test_oracle.py.
"""
