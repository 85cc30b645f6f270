"""The commands of the program, as it defines them."""

from collections.abc import Iterator
from typing import Any

import typer

from cbtfs.cli.main import app


def command_tree() -> dict[str, Any]:
    """Return all groups and commands by the words that call them, e.g. `ingest vsphere`."""
    return dict(_below("", typer.main.get_command(app)))


def _below(words: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        path = f"{words} {name}".strip()
        yield path, command
        if hasattr(command, "commands"):
            yield from _below(path, command)
