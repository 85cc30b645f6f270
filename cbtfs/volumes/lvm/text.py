"""The text format of LVM2 metadata: sections, assignments, arrays. See lvm.conf(5)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Union

Value = Union[str, int, Sequence["Value"], "Section"]
Section = Mapping[str, Value]

MAX_TEXT_BYTES: Final = 4 << 20
"""Largest text that is parsed. Metadata areas have 1 MiB by default."""
_MAX_DEPTH: Final = 16
_TOKEN: Final = re.compile(
    r"""(?:\s+|\#[^\n]*)*+
    (?: "(?P<string>(?:[^"\\]|\\.)*+)"
      | (?P<mark>[][{}=,])
      | (?P<word>[A-Za-z0-9_.+/-]+)
      | (?P<end>\Z) )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_INTEGER: Final = re.compile(r"-?[0-9]{1,20}\Z", re.ASCII)
_UUID: Final = re.compile(r"[A-Za-z0-9!#]{32}\Z", re.ASCII)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


class TextInvalid(ValueError):
    """Raised if a text is not LVM2 metadata."""


Token = tuple[str, str]
"""Kind of a token (a group of _TOKEN) and its text."""


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise TextInvalid(f"no token at character {at}")
        kind = match.lastgroup
        yield kind, match[kind]
        if kind == "end":
            return
        at = match.end()


def parse_text(text: str) -> Section:
    """Return the sections and values of a text.

    Raises:
        TextInvalid: it is not valid.
    """
    tokens = _tokens(text)
    stack: list[dict[str, Value]] = [{}]
    while True:
        kind, word = next(tokens)
        if kind == "end":
            break
        if (kind, word) == ("mark", "}"):
            if len(stack) == 1:
                raise TextInvalid("'}' without '{'")
            stack.pop()
            continue
        if kind == "mark":
            raise TextInvalid(f"{word!r} instead of a name")
        if word in stack[-1]:
            raise TextInvalid(f"{word!r} has two values")
        mark = next(tokens)
        if mark == ("mark", "{"):
            if len(stack) == _MAX_DEPTH:
                raise TextInvalid("too many nested sections")
            section: dict[str, Value] = {}
            stack[-1][word] = section
            stack.append(section)
        elif mark == ("mark", "="):
            stack[-1][word] = _value(tokens)
        else:
            raise TextInvalid(f"{word!r} has no value")
    if len(stack) > 1:
        raise TextInvalid("a section does not end")
    return stack[0]


def _value(tokens: Iterator[Token]) -> Value:
    token = next(tokens)
    if token != ("mark", "["):
        return _scalar(*token)
    items: list[Value] = []
    token = next(tokens)
    while token != ("mark", "]"):
        items.append(_scalar(*token))
        token = next(tokens)
        if token == ("mark", ","):
            token = next(tokens)
        elif token != ("mark", "]"):
            raise TextInvalid("an array does not end")
    return items


def _scalar(kind: str, text: str) -> Value:
    if kind == "string":
        return _ESCAPE.sub(r"\1", text)
    if kind == "word":
        return int(text) if _INTEGER.match(text) else text
    raise TextInvalid("a value is missing")


def section(of: Section, name: str) -> Section:
    """Return a section of a section; an empty one if it is absent.

    Raises:
        TextInvalid: the name has another value.
    """
    value = of.get(name, {})
    if not isinstance(value, Mapping):
        raise TextInvalid(f"{name!r} is not a section")
    return value


def integer(of: Section, name: str, default: int | None = None) -> int:
    """Return a value that is not negative; *default* if it is absent.

    Raises:
        TextInvalid: there is no such number.
    """
    value = of.get(name, default)
    if not isinstance(value, int) or value < 0:
        raise TextInvalid(f"{name!r} is not a number")
    return value


def string(of: Section, name: str) -> str:
    """Return a string.

    Raises:
        TextInvalid: there is none.
    """
    value = of.get(name)
    if not isinstance(value, str):
        raise TextInvalid(f"{name!r} is not a string")
    return value


def uuid(of: Section) -> str:
    """Return the member `id`: 32 characters, without the dashes.

    Raises:
        TextInvalid: it is not a UUID of LVM.
    """
    text = string(of, "id").replace("-", "")
    if not is_uuid(text):
        raise TextInvalid(f"{text[:40]!r} is not a UUID")
    return text


def is_uuid(text: str) -> bool:
    """Return True for the 32 characters of a UUID of LVM, which is not one of RFC 9562."""
    return _UUID.match(text) is not None


def strings(of: Section, name: str) -> Sequence[str]:
    """Return the strings of an array; none if it is absent."""
    value = of.get(name, ())
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise TextInvalid(f"{name!r} is not an array")
    return [item for item in value if isinstance(item, str)]
