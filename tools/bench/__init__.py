"""Measures cbtfs and its peers alternately in one run: `python -m tools.bench`."""
