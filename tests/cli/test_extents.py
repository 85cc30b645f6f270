"""`cbtfs extents` and `cbtfs diff`, against the images themselves."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbtfs.store.repository import create_repository
from cbtfs.store.settings import new_settings
from tests.cli.run_cbtfs import Run, process, runner
from tests.make_points import BLOCK, add_point

BLOCKS = 200
IMAGES = st.builds(
    lambda blocks, size: b"".join(bytes([block]) * BLOCK for block in blocks)[:size],
    st.lists(st.sampled_from([0, 0, 1, 2]), min_size=1, max_size=BLOCKS),
    st.integers(0, BLOCKS * BLOCK),
)


def extents_of(run: Run, image: bytes) -> list[dict[str, object]]:
    done = run("extents", "vm@latest", "d", "--json")
    assert done.code == 0
    extents: list[dict[str, object]] = done.document
    at = 0
    for extent in extents:
        start, length = extent["start"], extent["length"]
        assert isinstance(start, int)
        assert isinstance(length, int)
        assert (start, length > 0) == (at, True)
        assert (extent["state"] == "data") is any(image[at : at + length])
        at += length
    assert at == len(image)
    return extents


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(IMAGES, IMAGES)
def test_extents_cover_the_disk_and_diff_finds_what_differs(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    before: bytes,
    after: bytes,
) -> None:
    path = tmp_path_factory.mktemp("repository")
    create_repository(path, new_settings(BLOCK, 1))
    run = runner(path, capsys)
    first = add_point(path, {"d": before})
    extents_of(run, before)
    add_point(path, {"d": after})
    extents_of(run, after)

    done = run("diff", first.point, "vm@latest", "d", "--json")

    said = {
        block
        for extent in done.document
        for block in range(
            extent["start"] // BLOCK, -(-(extent["start"] + extent["length"]) // BLOCK)
        )
    }
    for at in range(0, max(len(before), len(after)), BLOCK):
        differs = before[at : at + BLOCK] != after[at : at + BLOCK]
        assert (at // BLOCK in said) is differs


def test_neighbours_are_one_extent(run: Run, repository: Path) -> None:
    add_point(repository, {"d": bytes(BLOCK) + b"\x01" * BLOCK * 70 + bytes(5)})

    done = run("extents", "vm@latest", "d", "--json")

    assert done.document == [
        {"start": 0, "length": BLOCK, "state": "zero"},
        {"start": BLOCK, "length": 70 * BLOCK, "state": "data"},
        {"start": 71 * BLOCK, "length": 5, "state": "zero"},
    ]


def test_words_are_columns(repository: Path) -> None:
    first = add_point(repository, {"d": b"\x01" * BLOCK})
    add_point(repository, {"d": b"\x02" * BLOCK + bytes(3)})

    extents = process("--repo", repository, "extents", first.point, "d")
    diff = process("--repo", repository, "diff", first.point, "vm@latest", "d")

    assert (extents.code, extents.out) == (0, f"0 {BLOCK} data\n")
    assert (diff.code, diff.out) == (0, f"0 {BLOCK + 3}\n")


def test_the_points_that_names_mean_are_said_beside_the_data(repository: Path) -> None:
    first = add_point(repository, {"d": b"\x01" * BLOCK})
    second = add_point(repository, {"d": b"\x02" * BLOCK})

    done = process("--repo", repository, "diff", first.point, "vm@latest", "d", "--json")

    assert done.document == [{"start": 0, "length": BLOCK}]
    assert done.err.splitlines() == [
        f"cbtfs: {first.point}: vm@2026-01-01T00-00-01Z (point {first.point[:12]})",
        f"cbtfs: vm@latest: vm@2026-01-01T00-00-02Z (point {second.point[:12]})",
    ]


def test_an_empty_disk_has_no_extents(run: Run, repository: Path) -> None:
    add_point(repository, {"d": b""})

    assert run("extents", "vm@latest", "d", "--json").document == []


def test_an_unknown_disk_is_13_and_names_those_there(run: Run, repository: Path) -> None:
    add_point(repository, {"root": b"", "swap": b""})

    done = run("extents", "vm@latest", "data")

    assert done.code == 13
    assert "root, swap" in done.err
