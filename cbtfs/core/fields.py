"""Members of a JSON object, taken with their types checked; ValueError names the member."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from cbtfs.core.ids import DIGEST_BYTES, Digest, is_id

Document = Mapping[str, Any]
Value = TypeVar("Value")

MAX_INTEGER: Final = (1 << 63) - 1


def _wrong(key: str, wanted: str) -> ValueError:
    return ValueError(f"member {key!r} is not {wanted}")


def text(document: Document, key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise _wrong(key, "a string")
    return value


def integer(document: Document, key: str) -> int:
    """A whole number from 0 to 2**63 - 1."""
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
        raise _wrong(key, "a whole number")
    return value


def id_of(document: Document, key: str) -> str:
    value = text(document, key)
    if not is_id(value):
        raise _wrong(key, "an id of 32 hex digits")
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


def items(document: Document, key: str) -> Sequence[Document]:
    """An array of objects."""
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(key, "an array of objects")
    return value


def choice(document: Document, key: str, choices: Sequence[Any]) -> Any:
    value = document.get(key)
    if value not in choices:
        raise _wrong(key, "one of " + ", ".join(map(str, choices)))
    return value


def optional(document: Document, key: str, take: Callable[[Document, str], Value]) -> Value | None:
    """What *take* finds under *key*; None where the member is null or absent."""
    return None if document.get(key) is None else take(document, key)
