"""Typed access to the members of a JSON object; ValueError names the member."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from cbtfs.core.ids import DIGEST_BYTES, Digest, is_id
from cbtfs.core.moment import parse_moment

Document = Mapping[str, Any]
Value = TypeVar("Value")

MAX_INTEGER: Final = (1 << 63) - 1
MAX_FILE_NAME_BYTES: Final = 255
"""Maximum length of a file name on Linux."""


def _wrong(key: str, wanted: str) -> ValueError:
    return ValueError(f"member {key!r} is not {wanted}")


def text(document: Document, key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise _wrong(key, "a string")
    return value


def file_name(document: Document, key: str) -> str:
    """Return a member that is valid as a file name."""
    value = text(document, key)
    if value in ("", ".", "..") or "/" in value or "\0" in value or not _fits(value):
        raise _wrong(key, "a file name")
    return value


def _fits(name: str) -> bool:
    try:
        return len(name.encode()) <= MAX_FILE_NAME_BYTES
    except UnicodeEncodeError:
        return False


def moment(document: Document, key: str) -> str:
    """Return a member that is an RFC 3339 time."""
    value = text(document, key)
    try:
        parse_moment(value)
    except ValueError as exc:
        raise _wrong(key, "an RFC 3339 time") from exc
    return value


def integer(document: Document, key: str) -> int:
    """Return a member that is a whole number from 0 to 2**63 - 1."""
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
        raise _wrong(key, "a whole number")
    return value


def id_of(document: Document, key: str) -> str:
    value = text(document, key)
    if not is_id(value):
        raise _wrong(key, "an id of 32 hex digits")
    return value


def ids(document: Document, key: str) -> Sequence[str]:
    """Return a member that is an array of ids."""
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(i, str) and is_id(i) for i in value):
        raise _wrong(key, "an array of ids")
    return value


def digest_of(document: Document, key: str) -> Digest:
    try:
        value = bytes.fromhex(text(document, key))
    except ValueError as exc:
        raise _wrong(key, "a digest") from exc
    if len(value) != DIGEST_BYTES:
        raise _wrong(key, "a digest")
    return Digest(value)


def mapping(document: Document, key: str) -> Document:
    value = document.get(key)
    if not isinstance(value, dict):
        raise _wrong(key, "an object")
    return value


def integers(document: Document, key: str) -> Sequence[int]:
    """Return a member that is an array of whole numbers."""
    value = document.get(key)
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise _wrong(key, "an array of whole numbers")
    return value


def items(document: Document, key: str) -> Sequence[Document]:
    """Return a member that is an array of objects."""
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(key, "an array of objects")
    return value


def choice(document: Document, key: str, choices: Sequence[Any]) -> Any:
    value = document.get(key)
    if value not in choices:
        raise _wrong(key, "one of " + ", ".join(map(str, choices)))
    return value


def truth(document: Document, key: str) -> bool:
    value = document.get(key)
    if not isinstance(value, bool):
        raise _wrong(key, "true or false")
    return value


def texts(document: Document, key: str) -> Sequence[str]:
    """Return a member that is an array of strings."""
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(key, "an array of strings")
    return value


def optional(document: Document, key: str, take: Callable[[Document, str], Value]) -> Value | None:
    """Return the member by *take*; None if it is null or absent."""
    return None if document.get(key) is None else take(document, key)
