"""Changed Block Tracking: switch it, query it, decide whether to trust it."""
