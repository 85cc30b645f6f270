"""Take one restore point from sources: plan, capture, commit."""
