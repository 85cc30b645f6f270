"""`cbtfs ingest image`: output, trusted change lists and usage errors."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cbtfs.store.repository import create_repository
from cbtfs.store.settings import new_settings
from tests.cli.run_cbtfs import CommandResult, Run, runner

SIZE = 40_000
BLOCK = 4096


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    create_repository(tmp_path / "repository", new_settings(BLOCK, 1))
    return runner(tmp_path / "repository", capsys)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * SIZE)
    return path


Ingest = Callable[..., CommandResult]


@pytest.fixture
def ingest(run: Run, image: Path) -> Ingest:
    def one(*options: str | Path) -> CommandResult:
        return run("ingest", "image", "--vm", "web", "--disk", "root", "--json", *options, image)

    return one


def listed(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def write(image: Path, at: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_the_document_has_the_members_of_the_contract(ingest: Ingest) -> None:
    done = ingest("--time", "2026-11-22T01:15:03+01:00")

    document = done.document
    assert document.pop("seconds") >= 0
    assert len(document.pop("point")) == 32
    assert document.pop("disks")[0].pop("stored_bytes") > 0
    assert document == {
        "vm": "web",
        "time": "2026-11-22T00:15:03Z",
        "kind": "full",
        "reason": "first restore point of this disk",
        "files": [],
    }


def test_a_trusted_list_limits_the_read_to_its_extents(
    ingest: Ingest, image: Path, tmp_path: Path
) -> None:
    ingest()
    write(image, 5000, b"y" * 10)

    document = ingest("--changed", listed(tmp_path / "c", [{"start": 5000, "length": 10}])).document

    assert document["kind"] == "incremental"
    (disk,) = document["disks"]
    assert (disk["read_bytes"], disk["written_blocks"], disk["zero_blocks"]) == (BLOCK, 1, 0)


def test_a_level_holds_for_what_is_stored_now(ingest: Ingest, image: Path) -> None:
    words = [b"%d " % (number * 7919 % 5003) for number in range(SIZE)]
    stored = []
    for level, start in (("1", 0), ("19", 1)):
        image.write_bytes(b"".join(words[start:])[:SIZE])
        done = ingest("--full", "--level", level)
        stored.append(done.document["disks"][0]["stored_bytes"])

    assert stored[1] < stored[0]


@pytest.mark.parametrize("threads", ["1", "5"])
def test_any_number_of_threads_takes_the_same_point(
    run: Run, ingest: Ingest, image: Path, tmp_path: Path, threads: str
) -> None:
    image.write_bytes(random.Random(1).randbytes(300 * BLOCK))

    assert ingest("--threads", threads).code == 0

    assert run("restore", "web@latest", "root", tmp_path / "back.raw").code == 0
    assert (tmp_path / "back.raw").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("option", [("--level", "20"), ("--level", "0"), ("--threads", "0")])
def test_a_level_or_a_number_of_threads_beyond_what_there_is_is_refused(
    ingest: Ingest, option: tuple[str, str]
) -> None:
    assert ingest(*option).code == 2


def test_an_empty_list_reads_nothing(ingest: Ingest, tmp_path: Path) -> None:
    ingest()

    document = ingest("--changed", listed(tmp_path / "c", [])).document

    assert (document["kind"], document["disks"][0]["read_bytes"]) == ("incremental", 0)


@pytest.mark.parametrize("spelling", ["{id}", "{short}", "web@{name}"])
def test_a_list_relative_to_the_newest_point_is_trusted(
    ingest: Ingest, run: Run, tmp_path: Path, spelling: str
) -> None:
    point = ingest().document["point"]
    name = run("show", "--json", point).document["name"]
    since = spelling.format(id=point, short=point[:10], name=name)

    changes = listed(tmp_path / "c", {"since": since, "extents": []})

    assert ingest("--changed", changes).document["kind"] == "incremental"


def test_a_list_is_since_the_base_that_is_named(ingest: Ingest, run: Run, tmp_path: Path) -> None:
    first = ingest().document["point"]
    second = ingest().document["point"]
    changes = listed(tmp_path / "c", [])

    document = ingest("--changed", changes, "--base", first[:12]).document

    assert document["kind"] == "incremental"
    assert run("show", "--json", document["point"]).document["disks"][0]["parent"] == first
    assert first != second


def test_a_base_that_is_not_there_causes_a_full(ingest: Ingest, tmp_path: Path) -> None:
    ingest()

    changes = listed(tmp_path / "c", [])
    document = ingest("--changed", changes, "--base", "web@2001-01-01T00:00:00Z").document

    assert document["kind"] == "full"
    assert "no point" in document["reason"]


def test_a_base_that_may_mean_another_point_is_refused(ingest: Ingest, tmp_path: Path) -> None:
    ingest()

    done = ingest("--changed", listed(tmp_path / "c", []), "--base", "web@latest")

    assert done.code == 2
    assert "not the exact name of a point" in done.err


NOT_CERTAIN = ["web@latest", "web@latest~0", "web@good", "web@-0min", "web@2099-01-01", "web"]


@pytest.mark.parametrize(
    "since", [*NOT_CERTAIN, "web@2099-01-01T00:00Z", "f" * 32, "other@latest", "web@yesterday"]
)
def test_a_list_without_a_valid_base_is_not_trusted(
    ingest: Ingest, tmp_path: Path, since: str
) -> None:
    ingest()

    document = ingest("--changed", listed(tmp_path / "c", {"since": since, "extents": []})).document

    assert document["kind"] == "full"
    assert since in document["reason"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--full", "--incremental-only"], 2, "mutually exclusive"),
        (["--incremental-only"], 32, "without --incremental-only"),
        (["--time", "yesterday"], 2, "RFC 3339"),
        (["--time", "9999-01-01T00:00:00Z"], 2, "ten minutes ahead of the clock"),
        (["--changed", "/nonexistent"], 2, "cannot read the change list"),
        (["--changed", "other=/nonexistent"], 2, "cannot read the change list"),
        (["--disk", "data"], 2, "SOURCE belongs to a single --disk"),
        (["--vm", ""], 2, "a VM needs a name"),
    ],
)
def test_invalid_options_are_refused_in_one_line(
    ingest: Ingest, options: list[str], code: int, words: str
) -> None:
    done = ingest(*options)

    assert done.code == done.document["error"]["code"] == code
    assert words in done.err
    assert done.err.count("\n") == 1


def test_a_source_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    done = run("ingest", "image", "--vm", "web", "--disk", "root", tmp_path / "none.raw")

    assert done.code == 30
    assert "none.raw" in done.err


def test_two_disks_make_one_point(run: Run, image: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.raw"
    other.write_bytes(b"z" * 100)

    options = ["--vm", "web", "--disk", f"root={image}", "--disk", f"data={other}", "--json"]
    document = run("ingest", "image", *options).document

    assert [disk["disk"] for disk in document["disks"]] == ["root", "data"]
    assert len(run("list", "--json").document["points"]) == 1
