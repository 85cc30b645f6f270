"""Capture a vSphere VM: prepare, snapshot, read, commit, clean up."""
