"""What a run of the program is: names for the shell's completion, or a command.

Completion is asked for at each press of a key. What it answers from the catalog does without the
command line's library, which takes longer to load than the catalog to read.
"""

import os

_ASKED = "_CBTFS_COMPLETE"
"""What the shell's script for completion sets."""


def run() -> None:
    """Run what the command line asks for; does not return."""
    if os.environ.get(_ASKED, "").startswith("complete_"):
        from cbtfs.cli.complete import answer

        found = answer(os.environ)
        if found is not None:
            print(found)
            raise SystemExit(0)
    from cbtfs.cli.main import run as run_command

    run_command()
