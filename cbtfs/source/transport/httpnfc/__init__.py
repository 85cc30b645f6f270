"""The httpnfc transport: whole disks by an export lease (HttpNfcLease) of the snapshot."""
