"""Incrementals by QEMU's dirty bitmaps from a disk that a guest keeps writing to."""

import json
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cbtfs import listing
from cbtfs.core.reasons import FullReason
from cbtfs.store.repository import reading
from tests.cli.run_cbtfs import Run
from tests.make_points import BLOCK, read_image
from tests.source.nbd.storage_daemon import Daemon, storage_daemon

SIZE = 4 << 20
GRAIN = 64 << 10
"""Granularity of QEMU's bitmaps."""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with storage_daemon(tmp_path / "daemon", SIZE) as running:
        yield running


def _ingest(run: Run, uri: str, *options: str) -> Any:
    done = run("ingest", "image", "--json", "--vm=vm", "--disk=disk", *options, uri)
    assert done.code == 0, done.err
    return done.document


def _content(repository: Path, point: str) -> bytes:
    with reading(repository) as opened:
        manifest = listing.find_point(opened, point).manifest
        return read_image(opened, manifest.disks[0])


def _writes(rnd: random.Random) -> list[str]:
    """Return commands for writes, discards and write-zeroes at any alignment."""
    commands = []
    for _ in range(6):
        start = rnd.randrange(SIZE // 512) * 512
        length = min(rnd.choice([512, 4096, 70_144, 300_032]), SIZE - start)
        verb = rnd.choice([f"write -P {rnd.randint(1, 255)}", "discard", "write -z", "write -z -u"])
        commands.append(f"{verb} {start} {length}")
    return commands


def test_every_point_has_the_content_of_its_moment(
    daemon: Daemon, run: Run, repository: Path
) -> None:
    rnd = random.Random(11)
    daemon.io("write -P 1 0 2M")
    expected = {}
    kinds = []

    for number in range(1, 9):
        uri = daemon.point()
        moment = daemon.converted(uri)
        daemon.io(*_writes(rnd))  # these change the disk, not the view
        bitmaps = [f"--next-bitmap=b{number}"]
        bitmaps += [f"--bitmap=b{number - 1}"] if number > 1 else []
        document = _ingest(run, uri, *bitmaps, f"--time=2026-01-01T00:00:{number:02}Z")
        expected[document["point"]] = moment
        kinds.append(document["kind"])
        daemon.end()
        daemon.io(*_writes(rnd))

    contents = {point: _content(repository, point) for point in expected}
    assert contents == expected
    assert len(set(expected.values())) == len(expected)
    assert kinds == ["full"] + ["incremental"] * 7
    assert run("check", "--read-data").code == 0


def test_the_commands_of_the_recipe_take_the_next_point(
    daemon: Daemon, run: Run, repository: Path
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text("utf-8")
    (asked,) = re.findall(r"^```json\n(.*?)^```", page, re.S | re.M)
    (line,) = re.findall(r"^cbtfs (ingest image .* --next-bitmap b2 .*)$", page, re.M)
    places = {"/srv/scratch": str(daemon.folder), "/run/disk.sock": f"{daemon.folder}/nbd.sock"}
    for place, here in places.items():
        asked, line = asked.replace(place, here), line.replace(place, here)
    daemon.io("write -P 1 0 2M")
    first = daemon.point()
    assert run("ingest", "image", "--vm=vm", "--disk=root", "--next-bitmap=b1", first).code == 0
    daemon.end()
    daemon.io("write -P 2 1M 512", "discard 0 64k")
    moment = daemon.converted(daemon.uri("live"))
    daemon.create("view2")

    while asked := asked.strip():
        command, end = json.JSONDecoder().raw_decode(asked)
        daemon.ask(command["execute"], **command["arguments"])
        asked = asked[end:]
    daemon.io("write -P 3 0 4M")
    done = run(*shlex.split(line), "--json", "--incremental-only")

    assert done.code == 0, done.err
    assert _content(repository, done.document["point"]) == moment
    assert done.document["disks"][0]["read_bytes"] == 2 * GRAIN


def test_only_the_extents_of_the_bitmap_are_read(daemon: Daemon, run: Run) -> None:
    daemon.io("write -P 1 0 2M")
    _ingest(run, daemon.point())
    daemon.end()
    daemon.io("write -P 2 1M 512", "discard 0 64k")

    document = _ingest(run, daemon.point(), "--bitmap=b1", "--incremental-only")

    (disk,) = document["disks"]
    assert disk["read_bytes"] == 2 * GRAIN
    assert disk["zero_blocks"] == GRAIN // BLOCK
    assert disk["reason"].startswith("changes since ")


def test_a_bitmap_that_starts_at_another_point_is_refused(
    daemon: Daemon, run: Run, repository: Path
) -> None:
    daemon.io("write -P 1 0 2M")
    _ingest(run, daemon.point(), "--next-bitmap=b1")
    daemon.io("write -P 2 0 64k")
    daemon.point()  # not captured: b2 starts here and does not include the write
    uri = daemon.point()

    refused = run(
        *("ingest", "image", "--vm=vm", "--disk=disk", "--bitmap=b2", "--incremental-only", uri)
    )
    document = _ingest(run, uri, "--bitmap=b2")

    assert refused.code == 32
    assert document["kind"] == "full"
    assert "the bitmap b2 is not the one that starts at" in document["reason"]
    assert "b1 does" in document["reason"]
    assert _content(repository, document["point"]) == daemon.converted(uri)


def test_a_bitmap_since_a_forgotten_point_is_refused(
    daemon: Daemon, run: Run, repository: Path
) -> None:
    _ingest(run, daemon.point(), "--time=2026-01-01T00:00:00Z")
    daemon.io("write -P 1 0 64k")
    second = _ingest(run, daemon.point(), "--bitmap=b1", "--time=2026-01-01T00:00:01Z")
    daemon.io("write -P 2 64k 64k")
    uri = daemon.point()
    assert run("forget", second["point"]).code == 0

    document = _ingest(run, uri, "--bitmap=b2")

    assert "the last committed point, which was forgotten" in document["reason"]
    assert _content(repository, document["point"]) == daemon.converted(uri)


def test_a_missing_bitmap_causes_a_full_with_the_reason(
    daemon: Daemon, run: Run, repository: Path
) -> None:
    _ingest(run, daemon.point())
    uri = daemon.point()

    document = _ingest(run, uri, "--bitmap=nothing")
    refused = run(
        *("ingest", "image", "--vm=vm", "--disk=disk", "--bitmap=none", "--incremental-only", uri)
    )

    assert document["kind"] == "full"
    assert "has no bitmap nothing" in document["reason"]
    with reading(repository) as opened:
        manifest = listing.find_point(opened, document["point"]).manifest
    assert manifest.disks[0].full_reason is FullReason.NO_LIST
    assert refused.code == 32


def test_a_disk_that_grew_is_captured_to_its_new_end(
    tmp_path: Path, run: Run, repository: Path
) -> None:
    with storage_daemon(tmp_path / "small", SIZE) as before:
        before.io("write -P 1 0 64k")
        _ingest(run, before.point())
    with storage_daemon(tmp_path / "large", SIZE + GRAIN) as after:
        after.io("write -P 1 0 64k", f"write -P 9 {SIZE} 4096")
        after.point()
        uri = after.point()

        document = _ingest(run, uri, "--bitmap=b1")

        assert document["kind"] == "incremental"
        assert _content(repository, document["point"]) == after.converted(uri)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bitmap=b1", "image.raw"], "has no bitmap: it is not an NBD export"),
        (["--next-bitmap=b1", "image.raw"], "has no bitmap: it is not an NBD export"),
        (["--bitmap=", "nbd://localhost"], "is not the name of a bitmap"),
        (["--next-bitmap=", "nbd://localhost"], "is not the name of a bitmap"),
    ],
)
def test_invalid_options_exit_with_2(run: Run, options: list[str], words: str) -> None:
    done = run("ingest", "image", "--vm=vm", "--disk=disk", *options)

    assert (done.code, done.out) == (2, "")
    assert words in done.err
