"""docs/python.md: the examples run as printed, and the reference names what there is."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cbtfs
from tests.make_points import BLOCK, add_point, new_repository

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
OLD = b"\1" * 4 * BLOCK
NEW = b"\1" * BLOCK + b"\2" * BLOCK + bytes(BLOCK) + b"EFI PART" * 640


@pytest.fixture
def outputs(tmp_path: Path) -> list[str]:
    """Run the examples with another directory in place of /srv. Return what they print."""
    repository = new_repository(tmp_path / "backup")
    add_point(repository, {"root": OLD}, vm="web01")
    add_point(repository, {"root": NEW}, vm="web01")
    (tmp_path / "copy.raw").write_bytes(OLD)
    return [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", example.replace("/srv", str(tmp_path))],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for example in EXAMPLES
    ]


def test_the_examples_print_and_copy_what_the_page_says(outputs: list[str], tmp_path: Path) -> None:
    listing, digest, nothing = outputs

    assert re.findall(r"web01@\S+ \['root'\]", listing) == [
        f"web01@2026-01-01T00-00-0{n}Z ['root']" for n in (1, 2)
    ]
    assert listing.endswith(f"{len(NEW)} {NEW[512:520]!r}\n")
    assert digest == f"{hashlib.sha256(NEW).hexdigest()}\n"
    assert nothing == ""
    assert (tmp_path / "copy.raw").read_bytes() == NEW


@pytest.mark.parametrize("name", sorted({*cbtfs.__all__}))
def test_the_page_names_each_exported_name(name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE)


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (cbtfs.Repository, "### Repository"),
        (cbtfs.Point, "### Point, Disk"),
        (cbtfs.Disk, "### Point, Disk"),
        (cbtfs.DiskFile, "### DiskFile"),
    ],
)
def test_the_page_describes_each_public_member(kind: type, title: str) -> None:
    section = PAGE.partition(title + "\n")[2].partition("\n### ")[0]
    inherited = {"readable", "seekable"}  # of io.RawIOBase
    members = {name for name in vars(kind) if not name.startswith("_")} - inherited

    described = set(re.findall(r"`(\w+)[(`]", section))
    assert members - {"close"} <= described
