"""Sealed JSON: sealing is reversible, and any other bytes are refused."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.sealed import MAX_BYTES, seal, unseal

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
DOCUMENTS = st.dictionaries(st.text().filter(lambda key: key != "sha256"), JSON, min_size=1)


def sealed(body: bytes) -> bytes:
    """Return *body*, any bytes that end in '}', with a valid seal."""
    return body[:-1] + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


@given(DOCUMENTS)
def test_a_sealed_document_round_trips(document: dict[str, Any]) -> None:
    assert unseal(seal(document)) == document


@given(DOCUMENTS)
def test_a_sealed_document_is_json_of_one_line(document: dict[str, Any]) -> None:
    data = seal(document)

    assert data.count(b"\n") == 1
    assert json.loads(data).items() >= document.items()


def test_every_bit_is_vouched_for() -> None:
    data = seal({"point": "aé", "disks": [1, 2, {"x": None}]})
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8

        with pytest.raises(ValueError, match=r"."):
            unseal(bytes(flipped))


def test_every_truncation_is_refused() -> None:
    data = seal({"a": "b" * 20})
    for length in range(len(data)):
        with pytest.raises(ValueError, match="checksum"):
            unseal(data[:length])


@pytest.mark.parametrize("tail", [b"\n", b" ", b"\0", b"{}"])
def test_bytes_after_the_seal_are_refused(tail: bytes) -> None:
    with pytest.raises(ValueError, match="no checksum at the end"):
        unseal(seal({"a": 1}) + tail)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\xff\xfe"}',
        b'{"a":}',
        b"[1,2}",
        b"\0}",
        b"}",
        b'"{}',
    ],
)
def test_a_seal_over_something_else_than_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unseal(sealed(body))


def test_a_file_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(ValueError, match="too large"):
        unseal(bytes(MAX_BYTES + 1))


def test_nothing_cannot_be_sealed() -> None:
    with pytest.raises(ValueError, match="nothing"):
        seal({})


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(ValueError, match="checksum"):
        unseal(noise)
