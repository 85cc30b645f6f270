"""Names from outside, made harmless as file names of the mount."""

import hashlib
import unicodedata
from collections.abc import Collection
from typing import Final

MAX_NAME_BYTES: Final = 200
"""File names may have 255 bytes; the rest is room for a suffix of ours and of other programs."""

_FORBIDDEN: Final = frozenset("/%:\\\x7f")
"""'%' marks our encoding; qemu-img takes what stands before ':' for a protocol."""


def encode_name(name: str) -> str:
    """A file name for *name*: percent-encoded where it could harm, never empty, '.' or '..'.

    Control, format (bidi), surrogate, private-use and unassigned characters, line separators,
    '/', '%', ':' and '\\\\' are encoded everywhere, dots, dashes and spaces at the start, spaces at
    the end. What is too long ends in '~' and 8 hex digits of its SHA-256.
    """
    parts = [_encode(character) for character in name]
    for at in range(len(name)):
        if name[at] not in ".- ":
            break
        parts[at] = _percent(name[at])
    if name.endswith(" "):
        parts[-1] = _percent(" ")
    encoded = "".join(parts) or "%"
    if len(encoded.encode()) <= MAX_NAME_BYTES:
        return encoded
    mark = "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    room = MAX_NAME_BYTES - len(mark)
    kept = ""
    for part in parts:
        if len(kept.encode()) + len(part.encode()) > room:
            break
        kept += part
    return kept + mark


def _encode(character: str) -> str:
    category = unicodedata.category(character)
    if character in _FORBIDDEN or category[0] == "C" or category in ("Zl", "Zp"):
        return _percent(character)
    return character


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def unique_name(name: str, taken: Collection[str], suffix: str) -> str:
    """*name*, or *name* with '~' and 8 characters of *suffix* or more where it is taken."""
    found, length = name, 8
    while found in taken:
        if length > len(suffix):
            raise ValueError(f"no free name for {name!r}")
        found, length = f"{name}~{suffix[:length]}", length + 8
    return found


def printable(text: str) -> str:
    """*text* with control and bidi characters escaped, for a terminal or a log."""
    return "".join(
        c if c.isprintable() and unicodedata.category(c)[0] != "C" else ascii(c)[1:-1] for c in text
    )
