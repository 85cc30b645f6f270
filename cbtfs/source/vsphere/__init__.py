"""vSphere: sessions, snapshots of virtual machines, what changed. The one door to pyVmomi."""
