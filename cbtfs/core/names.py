"""Encoding of external names as safe file names of the mount."""

import hashlib
import re
import unicodedata
from collections.abc import Collection
from typing import Final

MAX_NAME_BYTES: Final = 200
"""File names may have 255 bytes; the rest is for suffixes of cbtfs and of other programs."""

_FORBIDDEN: Final = frozenset("/%:\\\x7f")
"""'%' starts an encoded byte; qemu-img reads a prefix before ':' as a protocol."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.~ -]{0,198}[A-Za-z0-9_.~-])?")
"""Names that need no encoding: a fast path for repositories with thousands of VMs."""


def encode_name(name: str) -> str:
    """Return a safe file name for *name*: percent-encoded, never empty, '.' or '..'.

    Control, format (bidi), surrogate, private-use and unassigned characters, line separators,
    '/', '%', ':' and '\\\\' are encoded everywhere; dots, dashes and spaces at the start; spaces at
    the end. A name that is too long is cut and ends in '~' and 8 hex digits of its SHA-256.
    """
    if _PLAIN.fullmatch(name):
        return name
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
    suffix = "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    limit = MAX_NAME_BYTES - len(suffix)
    kept = ""
    for part in parts:
        if len(kept.encode()) + len(part.encode()) > limit:
            break
        kept += part
    return kept + suffix


def _encode(character: str) -> str:
    category = unicodedata.category(character)
    if character in _FORBIDDEN or category[0] == "C" or category in ("Zl", "Zp"):
        return _percent(character)
    return character


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def unique_name(name: str, taken: Collection[str], suffix: str) -> str:
    """Return *name*; if it is taken, *name* with '~' and 8 or more characters of *suffix*."""
    candidate, length = name, 8
    while candidate in taken:
        if length > len(suffix):
            raise ValueError(f"no free name for {name!r}")
        candidate, length = f"{name}~{suffix[:length]}", length + 8
    return candidate


def printable(text: str) -> str:
    """Return *text* with control and bidi characters escaped, for a terminal or a log."""
    if text.isascii() and text.isprintable():
        return text  # nearly all names; lists of many points call this often
    return "".join(
        c if c.isprintable() and unicodedata.category(c)[0] != "C" else ascii(c)[1:-1] for c in text
    )
