"""The tables of members in docs/commands.md, compared with documents that the program prints.

A table follows the line "Members of `NAME`…:". A row is a path such as `disks[].size`. A type in
backticks names another table, whose members the value has in addition to the rows below its path.
An `object` without rows below its path is free-form.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_PAGE: Final = (Path(__file__).parents[2] / "docs" / "commands.md").read_text("utf-8")
_TABLE: Final = re.compile(r"^Members of ([^|]*?):\n\n\| member .*\n\|-.*\n((?:\|.*\n)+)", re.M)
_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "id": lambda value: re.fullmatch(r"[0-9a-f]{32}", str(value)) is not None,
    "time": lambda value: re.fullmatch(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", str(value)) is not None,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: type(value) is bool,
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}
_Row = tuple[str, str]
"""Name of a table, and a path."""


def _tables() -> dict[str, dict[str, str]]:
    """Return types by path, for each name of a document; a table may have several names."""
    tables = {}
    for caption, rows in _TABLE.findall(_PAGE):
        cells = [line.split("|")[1:3] for line in rows.splitlines()]
        paths = {path.strip(" `"): kind.strip() for path, kind in cells}
        for name, more in re.findall(r"`([^`]+)`( with\b)?", caption.partition(", as ")[0]):
            tables[name + more] = paths
    return tables


@dataclass
class MemberTables:
    """The tables, the rows that documents had, and the differences."""

    tables: dict[str, dict[str, str]] = field(default_factory=_tables)
    observed: set[_Row] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def compare(self, name: str, document: Any) -> None:
        """Note each member of *document*, or of its items, that has no row or another type."""
        for item in document if isinstance(document, list) else [document]:
            self._object([(name, "")], item)

    def never_printed(self) -> list[_Row]:
        """Return the rows that no document had."""
        rows = [(name, path) for name, paths in self.tables.items() for path in paths]
        return [row for row in rows if row not in self.observed]

    def _object(self, tables: list[_Row], value: dict[str, Any]) -> None:
        """Compare an object whose members are rows of *tables*: names and prefixes of paths."""
        for member, content in value.items():
            rows = [(name, prefix + member) for name, prefix in tables]
            rows = [(name, path) for name, path in rows if path in self.tables[name]]
            if not rows:
                self.problems.append(f"{tables[0]}: no row for {member}")
                continue
            self.observed.update(rows)
            self._value(rows[0], content)

    def _value(self, row: _Row, value: Any) -> None:
        name, path = row
        kind = self.tables[name][path]
        if kind.startswith("array of ") and isinstance(value, list):
            items, kind, path = value, kind.removeprefix("array of "), f"{path}[]"
        elif kind.startswith("map of ") and isinstance(value, dict):
            items, kind = list(value.values()), kind.removeprefix("map of ")
        else:
            items = [value]
        is_described = any(other.startswith(f"{path}.") for other in self.tables[name])
        below = [(name, f"{path}.")] if is_described else []
        below += [(reference, "") for reference in re.findall("`([^`]+)`", kind)]
        for item in items:
            if isinstance(item, dict) and below:
                self._object(below, item)
            elif not any(_TYPES.get(word, _never)(item) for word in _words(kind)):
                self.problems.append(f"{row}: {item!r} is not {kind}")


def _words(kind: str) -> list[str]:
    """Return the alternatives of a type, in the singular."""
    return [word.removesuffix("s") for word in kind.split(" or ")]


def _never(value: Any) -> bool:
    return False
