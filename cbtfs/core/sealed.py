"""Sealed files: a JSON object with a checksum, which detects any changed bit."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

MAX_BYTES: Final = 16 << 20
"""Maximum size of a sealed file; a larger file is invalid and need not be loaded."""

_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\n\Z')
_SEAL_BYTES: Final = len(b',"sha256":""}\n') + 64


def seal(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a sealed file: one line of JSON whose last member is a checksum.

    "sha256" is the SHA-256 of all bytes before its comma, followed by "}": that is, of the
    document without the seal (docs/format.md).
    """
    body = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    if len(body) <= 2:
        raise ValueError("nothing to seal")
    return body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def unseal(data: bytes) -> dict[str, Any]:
    """Return the document in a sealed file; ValueError if the seal does not match."""
    if len(data) > MAX_BYTES:
        raise ValueError("too large")
    match = _SEAL.search(data, max(len(data) - _SEAL_BYTES, 0))
    if match is None:
        raise ValueError("no checksum at the end")
    body = data[: match.start()] + b"}"
    if hashlib.sha256(body).hexdigest().encode() != match[1]:
        raise ValueError("its checksum does not match")
    try:
        document = json.loads(body)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document
