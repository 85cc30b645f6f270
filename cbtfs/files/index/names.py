"""The names of a segment of an index: directories with front-coded paths, and their files.

Items are separated by zero bytes. An item that starts with a slash is a directory: the number of
characters that its path shares with that of the directory before it, a colon, and the rest of the
path. All other items are names of files in the last directory. Names have no slash.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from os.path import commonprefix
from typing import Final, NamedTuple

from cbtfs.errors import DataCorrupt

_DIRECTORY: Final = re.compile(r"\0/(\d{1,6}):([^\0]*)(?=\0)")
_SPECIAL: Final = frozenset("*?[")


def directory_item(path: str, before: str) -> str:
    """Return the item of a directory behind another one, whose path is *before*."""
    shared = len(commonprefix([path, before]))  # noqa: RUF071 - characters are meant
    return f"/{shared}:{path[shared:]}"


class Match(NamedTuple):
    """A file whose name matches."""

    number: int
    """Number of the file in its segment."""
    path: str


Search = Callable[[str], Iterator[tuple[int, int]]]
"""Yields start and end of the names that match in the text of a segment."""


def search_for(pattern: str | None) -> Search:
    """Return a search for names that match a pattern of the shell, as fnmatchcase() does."""
    if pattern is None:
        pattern = "*"
    suffix = pattern[1:]
    if pattern.startswith("*") and suffix and _SPECIAL.isdisjoint(suffix):
        return _by_suffix(suffix)
    expression = re.compile(rf"\0(?!/)({_translated(pattern)})(?=\0)")
    return lambda text: (match.span(1) for match in expression.finditer(text))


def _by_suffix(suffix: str) -> Search:
    wanted = suffix + "\0"

    def search(text: str) -> Iterator[tuple[int, int]]:
        at = text.find(wanted)
        while at >= 0:
            start = text.rfind("\0", 0, at + 1) + 1
            if text[start] != "/" and start <= at:
                yield start, at + len(suffix)
            at = text.find(wanted, at + 1)

    return search if "\0" not in suffix and "/" not in suffix else lambda _: iter(())


def _translated(pattern: str) -> str:
    """Return the regular expression of a pattern; it matches no zero byte."""
    parts, at = list[str](), 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            if not parts or parts[-1] != r"[^\0]*":
                parts.append(r"[^\0]*")
        elif character == "?":
            parts.append(r"[^\0]")
        elif character == "[" and (end := _end_of_set(pattern, at)) > 0:
            parts.append(_set(pattern[at:end]))
            at = end + 1
        else:
            parts.append(re.escape(character))
    return "".join(parts)


def _end_of_set(pattern: str, at: int) -> int:
    """Return the index of the bracket that ends a set, or -1."""
    first = at + (pattern[at : at + 1] == "!")
    return pattern.find("]", first + (pattern[first : first + 1] == "]"))


def _set(content: str) -> str:
    """Return the expression of a set, whose ranges are ordered pairs with a hyphen in between."""
    is_negated = content.startswith("!")
    items, at = content[is_negated:], 0
    parts = []
    while at < len(items):
        if items[at + 1 : at + 2] == "-" and at + 2 < len(items):
            low, high = items[at], items[at + 2]
            if low <= high:
                parts.append(f"{re.escape(low)}-{re.escape(high)}")
            at += 3
        else:
            parts.append(re.escape(items[at]))
            at += 1
    body = "".join(parts)
    if is_negated:
        return rf"[^\0{body}]"
    return rf"[{body}]" if body else r"(?!)"


def matches(names: bytes, search: Search) -> Sequence[Match]:
    """Return the files of a segment whose names match, in their order.

    Raises:
        DataCorrupt: the names are not in the form of an index.
    """
    text = f"\0{names.decode('utf-8', 'surrogateescape')}\0"
    spans = list(search(text))
    if not spans:
        return []
    starts, paths, firsts = _directories(text)
    found = []
    directory = -1
    number = at = 0
    for start, end in spans:
        current = bisect_right(starts, start) - 1
        if current < 0:
            raise DataCorrupt("an index has a file without a directory")
        if current != directory:
            directory, at = current, text.index("\0", starts[current] + 1)
            number = firsts[current]
        number += text.count("\0", at, start - 1)
        at = start - 1
        found.append(Match(number, f"{paths[current]}/{text[start:end]}"))
    return found


def _directories(text: str) -> tuple[list[int], list[str], list[int]]:
    """Return offset and path of each directory, and the number of files before it."""
    starts, paths, firsts = list[int](), list[str](), list[int]()
    path, at, separators = "", 0, 0
    for match in _DIRECTORY.finditer(text):
        shared = int(match[1])
        if shared > len(path):
            raise DataCorrupt("an index has a directory without a path")
        path = path[:shared] + match[2]
        separators += text.count("\0", at, match.start())
        at = match.start()
        firsts.append(separators - len(starts))
        starts.append(match.start())
        paths.append("" if path == "/" else path)
    return starts, paths, firsts
