"""What the simulator knows: disks, change tracking, machines, snapshots. No SOAP in here."""
