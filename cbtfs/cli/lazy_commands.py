"""Commands by module, loaded at their first use.

Loading all modules took a third of the time of a short command.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

from cbtfs.cli.options.everywhere import add_everywhere

MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "init": ("init",),
    "upgrade": ("upgrade",),
    "ingest": ("ingest",),
    "list_show": ("list", "show"),
    "extents": ("extents", "diff"),
    "blame": ("blame",),
    "bisect": ("bisect",),
    "mount": ("mount", "umount"),
    "restore": ("restore",),
    "files": ("files",),
    "overlay": ("overlay",),
    "export": ("export",),
    "check": ("check",),
    "prove": ("prove",),
    "forget": ("forget", "protect", "tag"),
    "unforget": ("unforget",),
    "prune": ("prune",),
    "copy": ("copy",),
    "key": ("key",),
    "repair": ("repair", "unlock"),
    "stats": ("stats",),
    "status": ("status",),
    "cbt": ("cbt",),
    "watch": ("watch",),
    "doctor": ("doctor",),
    "run": ("run",),
    "demo": ("demo",),
}
_HOMES: Final = {name: module for module, names in MODULES.items() for name in names}
COMMANDS: Final = tuple(_HOMES)
"""Names of all commands."""


def load_commands(module: str) -> dict[str, Any]:
    """The commands of `cbtfs.cli.commands.<module>`, by name."""
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    import_module(f"cbtfs.cli.commands.{module}").add_to(app)
    commands = dict(get_group(app).commands)
    for command in commands.values():
        add_everywhere(command)
    return commands


class _Commands(MutableMapping[str, Any]):
    """Mapping of names to commands, with those of MODULES first."""

    def __init__(self, others: Mapping[str, Any]) -> None:
        self._loaded = dict(others)

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded |= load_commands(_HOMES[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        yield from _HOMES
        yield from (name for name in self._loaded if name not in _HOMES)

    def __len__(self) -> int:
        return len(_HOMES.keys() | self._loaded.keys())


class SuggestingGroup(TyperGroup):
    """Group of commands; the error of an unknown name has the similar names as candidates."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except typer.TyperException as exc:
            if args and not hasattr(exc, "possibilities"):
                from difflib import get_close_matches

                exc.possibilities = get_close_matches(args[0], self.commands)  # type: ignore[attr-defined]
            raise


class LazyCommands(SuggestingGroup):
    """Group of all commands, each loaded at its first use."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        add_everywhere(self)
        self.commands = _Commands(self.commands)
