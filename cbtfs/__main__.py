"""`python -m cbtfs`."""

from cbtfs.cli.main import run

run()
