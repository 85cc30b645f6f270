"""vSphere: sessions, snapshots and change lists. Only this package imports pyVmomi."""
