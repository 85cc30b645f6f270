"""Extents in the shapes that users of QEMU and libnbd know."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run_cbtfs import Run
from tests.make_points import BLOCK, add_point

A = b"\1" * 2 * BLOCK + bytes(3 * BLOCK) + b"\2" * (BLOCK + 512)
B = b"\1" * BLOCK + bytes(4 * BLOCK) + b"\2" * (BLOCK + 512) + b"\3" * BLOCK


@pytest.fixture(autouse=True)
def _points(repository: Path) -> None:
    add_point(repository, {"disk": A})
    add_point(repository, {"disk": B})


def _qemu(path: Path) -> Any:
    command = ["qemu-img", "map", "-f", "raw", "--output=json", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_the_shape_of_qemu_is_what_qemu_img_says_of_the_restored_file(
    run: Run, tmp_path: Path
) -> None:
    restored = tmp_path / "restored.raw"
    run("restore", "vm@2026-01-01T00-00-01Z", "disk", restored)

    extents = run("extents", "--format=qemu", "vm@2026-01-01T00-00-01Z", "disk").document

    assert extents == _qemu(restored)


def test_the_shape_of_nbd_has_types_and_words(run: Run) -> None:
    extents = run("extents", "--format=nbd", "vm@2026-01-01T00-00-01Z", "disk").document

    assert extents == [
        {"offset": 0, "length": 2 * BLOCK, "type": 0, "description": "data"},
        {"offset": 2 * BLOCK, "length": 3 * BLOCK, "type": 3, "description": "hole,zero"},
        {"offset": 5 * BLOCK, "length": BLOCK + 512, "type": 0, "description": "data"},
    ]


def test_plain_is_what_there_is_without_a_format(run: Run) -> None:
    for command in (["extents", "vm@latest", "disk"], ["diff", *_pair(), "disk"]):
        assert run(*command, "--format=plain").out == run(*command).out != ""


def _pair() -> list[str]:
    return ["vm@2026-01-01T00-00-01Z", "vm@latest"]


def test_a_diff_in_the_shape_of_nbd_is_a_dirty_bitmap_of_the_larger_disk(run: Run) -> None:
    extents = run("diff", "--format=nbd", *_pair(), "disk").document

    assert [(extent["description"], extent["type"], extent["length"]) for extent in extents] == [
        ("clean", 0, BLOCK),
        ("dirty", 1, BLOCK),
        ("clean", 0, 4 * BLOCK),
        ("dirty", 1, BLOCK + 512),
    ]


def test_a_diff_in_the_shape_of_qemu_has_data_where_it_differs(run: Run) -> None:
    plain = run("diff", "--json", *_pair(), "disk").document
    extents = run("diff", "--format=qemu", *_pair(), "disk").document

    assert sum(extent["length"] for extent in extents) == len(B)
    assert [
        {"start": extent["start"], "length": extent["length"]}
        for extent in extents
        if extent["data"]
    ] == plain


def test_a_format_and_json_exclude_each_other(run: Run) -> None:
    for command in (["extents", "vm@latest", "disk"], ["diff", *_pair(), "disk"]):
        assert run(*command, "--format=qemu", "--json").code == 2


def test_an_unknown_format_is_2(run: Run) -> None:
    assert run("extents", "--format=xml", "vm@latest", "disk").code == 2
