"""Find obstacles to the backup of VMs, each with its fix. Nothing is changed."""
