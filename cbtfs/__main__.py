"""`python -m cbtfs`."""

from cbtfs.cli.start import run

run()
