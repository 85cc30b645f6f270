"""Entry point: completion of names, or a command.

The shell runs completion at each press of a key. Names are completed without importing Typer, which
takes longer than reading the catalog.
"""

import os

_ASKED = "_CBTFS_COMPLETE"
"""Variable that the completion script of the shell sets."""


def run() -> None:
    """Complete a name or run a command; does not return."""
    if os.environ.get(_ASKED, "").startswith("complete_"):
        from cbtfs.cli.complete import answer

        completions = answer(os.environ)
        if completions is not None:
            print(completions)
            raise SystemExit(0)
    from cbtfs.cli.main import run as run_command

    run_command()
