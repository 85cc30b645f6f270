"""The model of the simulated world: disks, change tracking, snapshots, machines."""
