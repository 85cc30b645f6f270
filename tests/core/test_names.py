"""External names become safe file names."""

import os
import random
import unicodedata
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cbtfs.core.names import MAX_NAME_BYTES, encode_name, printable, unique_name

PARTS: Final = [
    *"/\\:%.-~ \0\n\r\t\x7f\x85\u200b\u200f\u202e\u2066\u2028\ufeff\ud800\udfff\ue000\U0010ffff",
    *"aAéßİ東🖥",
    *["..", "~1", "\x1b[31m", "e\u0301", "web-01", "con", "latest", "%2F", "%00", "\U000e0001"],
]
LENGTHS: Final = (1, 1, 1, 2, 3, 5, 8, 40, 255, 256, 1024)


def hostile_names() -> list[str]:
    """Return 2,000 difficult names, the same in each run."""
    rng = random.Random(40)
    return ["".join(rng.choices(PARTS, k=rng.choice(LENGTHS))) for _ in range(2000)]


NAMES = st.text() | st.sampled_from(hostile_names())


def is_harmless(name: str) -> bool:
    """Return whether *name* is a valid file name on Linux."""
    return (
        0 < len(name.encode()) <= MAX_NAME_BYTES
        and not set(name) & set("/\\:\0")
        and not name.startswith((".", "-", " "))
        and not name.endswith(" ")
        and all(unicodedata.category(c)[0] != "C" for c in name)
        and not set(name) & set("\u2028\u2029")
    )


def test_hostile_names_become_harmless() -> None:
    encoded = {name: encode_name(name) for name in hostile_names()}

    assert {name: n for name, n in encoded.items() if not is_harmless(n)} == {}


@given(NAMES)
@example("")
@example(".")
@example("..")
@example(" ")
def test_any_name_becomes_harmless(name: str) -> None:
    assert is_harmless(encode_name(name))


def test_a_long_name_keeps_its_beginning() -> None:
    """The name ends at the first character that does not fit, even if a later one is shorter."""
    for filler in range(180, MAX_NAME_BYTES):
        name = "x" * filler + "\u20ac" + "y" * 100

        encoded = encode_name(name)

        assert len(encoded.encode()) <= MAX_NAME_BYTES
        assert name.startswith(encoded[: -len("~12345678")])


def test_hostile_names_that_differ_stay_different() -> None:
    names = set(hostile_names())

    assert len({encode_name(name) for name in names}) == len(names)


@given(NAMES, NAMES)
@example("a/b", "a%2Fb")
@example("", "%")
@example(".", "%2E")
@example("\u00e9", "e\u0301")
def test_names_that_differ_stay_different(one: str, other: str) -> None:
    assert (encode_name(one) == encode_name(other)) == (one == other)


@given(st.text("abcXYZ019_-. äé東", min_size=1, max_size=40).map(lambda name: f"x{name}x"))
def test_an_ordinary_name_stays_as_it_is(name: str) -> None:
    assert encode_name(name) == name


def test_the_file_system_takes_every_name(tmp_path: Path) -> None:
    names = {encode_name(name) for name in hostile_names()[:300]}
    for name in names:
        (tmp_path / name).touch()

    assert set(os.listdir(tmp_path)) == names


@given(st.lists(NAMES, max_size=8))
def test_unique_names_are_unique_and_fit_a_directory(names: list[str]) -> None:
    taken: set[str] = set()
    for number, name in enumerate([*names, *names]):
        unique = unique_name(encode_name(name), taken, f"{number:08x}" * 4)

        assert unique not in taken
        assert len(unique.encode()) <= 255
        taken.add(unique)


def test_a_name_that_is_free_stays_as_it_is() -> None:
    assert unique_name("web", {"db"}, "0" * 32) == "web"


def test_a_suffix_that_is_taken_too_grows() -> None:
    assert unique_name("web", {"web", "web~01234567"}, "0123456789abcdef") == "web~0123456789abcdef"


def test_a_name_for_which_nothing_is_free_is_refused() -> None:
    with pytest.raises(ValueError, match="no free name"):
        unique_name("web", {"web", "web~01234567"}, "01234567")


@given(NAMES)
def test_printable_text_holds_no_control_character(text: str) -> None:
    escaped = printable(text).encode().decode()

    assert escaped.isprintable()


@pytest.mark.parametrize("text", ["web-01", "東京 db", "a'b\"c\\d"])
def test_harmless_text_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text
