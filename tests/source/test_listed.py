"""Change lists from files: parsing, validation, and the points from which they start."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.extent import Extent
from cbtfs.core.ids import PointId
from cbtfs.errors import UsageError
from cbtfs.source.base import ChangeTrackingInvalid, Since
from cbtfs.source.listed import ChangeList, ListedSource, load_change_list
from tests.source.fake import FakeDisk

SIZE = 10_000
POINT, OTHER = PointId("12" * 16), PointId("34" * 16)
BASE = Since(POINT, None, SIZE, is_last_committed=True)
NOT_THE_LAST = Since(POINT, None, SIZE, is_last_committed=False)

DEEP = "[" * 100_000 + "]" * 100_000

MALFORMED: dict[str, str | bytes] = {
    "empty": "",
    "truncated": '[{"start": 0, "length": 1}',
    "two documents": "[] []",
    "no UTF-8": b"[\xff]",
    "deep": DEEP,
    "a number too long": '[{"start": ' + "9" * 5000 + ', "length": 1}]',
    "a huge number": '[{"start": ' + "9" * 4000 + ', "length": 1}]',
    "2**63": '[{"start": 9223372036854775808, "length": 1}]',
    "null": "null",
    "number": "5",
    "string": '"[]"',
    "items that are numbers": "[5]",
    "items that are lists": "[[0, 1]]",
    "items that are strings": '["start"]',
    "null item": "[null]",
    "no length": '[{"start": 0}]',
    "no start": '[{"length": 1}]',
    "float": '[{"start": 0.0, "length": 1}]',
    "exponent": '[{"start": 0, "length": 1e3}]',
    "NaN": '[{"start": NaN, "length": 1}]',
    "infinite": '[{"start": 0, "length": Infinity}]',
    "boolean": '[{"start": false, "length": true}]',
    "string number": '[{"start": "0", "length": 1}]',
    "null number": '[{"start": 0, "length": null}]',
    "deep number": '[{"start": ' + "[" * 800 + "]" * 800 + ', "length": 1}]',
    "no extents": '{"since": "vm@latest"}',
    "extents in an object": '{"since": "vm@latest", "extents": {}}',
    "since that is a number": '{"since": 5, "extents": []}',
    "since that is a list": '{"since": ["vm@latest"], "extents": []}',
}


def load(folder: Path, text: str | bytes) -> ChangeList:
    path = folder / "changes.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_change_list(path)


def listed(*extents: tuple[int, int]) -> ListedSource:
    return ListedSource(FakeDisk(SIZE).take_snapshot(), ChangeList(extents))


def listed_since(spec: str, point: PointId | None) -> ListedSource:
    changes = ChangeList(((0, 5),), since=spec)
    return ListedSource(FakeDisk(SIZE).take_snapshot(), changes, point)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_change_list_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="change list") as caught:
        load(tmp_path, MALFORMED[name])

    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["start", "length", "since", "extents", "x"]), inner)
        ),
    )
)
def test_any_json_is_a_change_list_or_refused(
    tmp_path_factory: pytest.TempPathFactory, document: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(document))

    try:
        changes = load_change_list(path)
    except UsageError:
        return

    assert all(type(number) is int for extent in changes.extents for number in extent)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the change list"):
        load_change_list(tmp_path / "none.json")


def test_a_list_of_extents_is_since_the_last_point(tmp_path: Path) -> None:
    text = '[{"start": 7, "length": 3, "type": "data"}, {"length": 1, "start": 0}]'

    assert load(tmp_path, text) == ChangeList(((7, 3), (0, 1)), since=None)


def test_an_object_names_the_point_from_which_it_starts(tmp_path: Path) -> None:
    text = '{"since": "vm@latest", "extents": [{"start": 7, "length": 3}]}'

    assert load(tmp_path, text) == ChangeList(((7, 3),), since="vm@latest")


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (-1, 5),
        (0, -1),
        (-5, 10),
        (5, 0),
        (SIZE, 1),
        (SIZE - 1, 2),
        (0, SIZE + 1),
        (SIZE + 1, -2),
        (2**63 - 1, 1),
    ],
)
def test_one_invalid_item_voids_the_list(start: int, length: int) -> None:
    source = listed((0, 10), (start, length))

    with pytest.raises(ChangeTrackingInvalid, match=rf"item 1 \(start {start}, length {length}\)"):
        source.changed(BASE)


def test_an_empty_list_is_valid() -> None:
    assert listed().changed(BASE) == []


def test_unordered_and_overlapping_items_up_to_the_end_are_valid() -> None:
    extents = listed((SIZE - 1, 1), (0, SIZE), (5, 7), (5, 7)).changed(BASE)

    assert extents == [Extent(SIZE - 1, 1), Extent(0, SIZE), Extent(5, 7), Extent(5, 7)]


def test_a_list_since_the_last_point_is_refused_after_that_point_was_forgotten() -> None:
    with pytest.raises(ChangeTrackingInvalid, match="forgotten"):
        listed((0, 5)).changed(NOT_THE_LAST)


def test_a_list_since_the_base_is_accepted() -> None:
    assert listed_since("vm@x", POINT).changed(BASE) == [Extent(0, 5)]


def test_a_list_since_the_base_is_accepted_although_a_later_point_was_forgotten() -> None:
    assert listed_since("vm@x", POINT).changed(NOT_THE_LAST) == [Extent(0, 5)]


@pytest.mark.parametrize("point", [OTHER, None], ids=["another point", "no point"])
def test_a_list_since_another_point_is_refused(point: PointId | None) -> None:
    with pytest.raises(ChangeTrackingInvalid, match="since vm@x"):
        listed_since("vm@x", point).changed(BASE)


def test_a_since_with_control_characters_is_harmless_in_the_reason() -> None:
    with pytest.raises(ChangeTrackingInvalid) as caught:
        listed_since("\x1b[2J\nvm\ud800" + "x" * 100_000, None).changed(BASE)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
