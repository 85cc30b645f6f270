"""repository.json: encoding is reversible, and unknown versions and features are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.sealed import seal, unseal
from cbtfs.core.settings import Settings, UnknownFormat, decode_settings, encode_settings

ID = "0123456789abcdef" * 2

SETTINGS = st.builds(
    Settings,
    id=st.text("0123456789abcdef", min_size=32, max_size=32),
    created=st.text(max_size=20),
    block_size=st.sampled_from([4096, 65536, 1 << 20]),
    level=st.integers(1, 19),
    optional=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)


def document() -> dict[str, Any]:
    return unseal(encode_settings(Settings(ID, "2026-01-01T00:00:00Z")))


@given(SETTINGS)
def test_settings_round_trip(settings: Settings) -> None:
    assert decode_settings(encode_settings(settings)) == settings


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_unknown(version: int) -> None:
    with pytest.raises(UnknownFormat, match=f"version {version}"):
        decode_settings(seal(document() | {"version": version}))


@pytest.mark.parametrize("key", ["features", "digest", "defaults", "id", "created"])
def test_another_version_is_unknown_whatever_else_it_changed(key: str) -> None:
    newer = document() | {"version": 2}
    del newer[key]

    with pytest.raises(UnknownFormat, match="version 2"):
        decode_settings(seal(newer))


def test_a_required_feature_that_nobody_knows_is_unknown() -> None:
    newer = document() | {"features": {"required": ["encryption"], "optional": []}}

    with pytest.raises(UnknownFormat, match="encryption"):
        decode_settings(seal(newer))


def test_an_optional_feature_that_nobody_knows_is_passed_over() -> None:
    newer = document() | {"features": {"required": [], "optional": ["colours"]}}

    assert decode_settings(seal(newer)).optional == ("colours",)


@pytest.mark.parametrize(
    "digest",
    [{"algorithm": "sha-256", "key_slot": None}, {"algorithm": "blake3-256", "key_slot": 1}],
)
def test_another_digest_is_unknown(digest: dict[str, Any]) -> None:
    with pytest.raises(UnknownFormat, match="digest"):
        decode_settings(seal(document() | {"digest": digest}))


@pytest.mark.parametrize("key", ["format", "version", "id", "created", "features", "defaults"])
def test_settings_without_a_member_are_damaged(key: str) -> None:
    broken = document()
    del broken[key]

    with pytest.raises(ValueError, match=r".") as caught:
        decode_settings(seal(broken))

    assert not isinstance(caught.value, UnknownFormat)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"id": "x"},
        {"id": 5},
        {"version": "1"},
        {"version": True},
        {"created": None},
        {"features": []},
        {"features": {"required": "x", "optional": []}},
        {"features": {"required": [1], "optional": []}},
        {"features": {"required": []}},
        {"digest": None},
        {"defaults": {"block_size": 5000, "level": 1}},
        {"defaults": {"block_size": "65536", "level": 1}},
        {"defaults": {"block_size": 65536, "level": 0}},
        {"defaults": {"block_size": 65536, "level": 20}},
        {"defaults": {"block_size": 65536}},
    ],
)
def test_settings_that_make_no_sense_are_damaged(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        decode_settings(seal(document() | changes))

    assert not isinstance(caught.value, UnknownFormat)


@pytest.mark.parametrize("block_size", [0, 100, 2048, 5000, 1 << 21])
def test_an_invalid_block_size_is_refused(block_size: int) -> None:
    with pytest.raises(ValueError, match="block size"):
        Settings(ID, "", block_size=block_size)
