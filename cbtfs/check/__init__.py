"""Verification of a repository; lists damaged objects and the restore points they affect."""
