"""The Python API; docs/python.md describes it, and cbtfs/__init__.py exports it."""
