"""A JSON object in a file that shows when one bit of it is wrong."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

MAX_BYTES: Final = 16 << 20
"""No sealed file is larger; a reader need not load more to know that it is not one."""

_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n\Z')
_SEAL_BYTES: Final = len(b',"sha256":""}\n') + 64


def seal(document: Mapping[str, Any]) -> bytes:
    """The bytes of a sealed file: one line of JSON whose last member is a checksum.

    "sha256" is the SHA-256 of all bytes before its comma, followed by "}": that is, of the
    document as it would stand without the seal (docs/format.md).
    """
    body = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    if len(body) <= 2:
        raise ValueError("nothing to seal")
    return body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def unseal(data: bytes) -> dict[str, Any]:
    """The document in a sealed file; ValueError if it is not exactly what was sealed."""
    if len(data) > MAX_BYTES:
        raise ValueError("too large")
    match = _SEAL.search(data, max(len(data) - _SEAL_BYTES, 0))
    if match is None:
        raise ValueError("no checksum at its end")
    body = data[: match.start()] + b"}"
    if hashlib.sha256(body).hexdigest().encode() != match[1]:
        raise ValueError("its checksum does not fit")
    try:
        document = json.loads(body)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document
