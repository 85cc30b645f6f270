"""2,000 hostile names of VMs and disks from ingest to mount; and decompression bombs."""

import json
import os
import random
import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
import zstandard

from cbtfs.core.frame import Codec, Frame, Kind
from cbtfs.errors import DataCorrupt
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.point import ingest_point
from cbtfs.store import codec
from cbtfs.store.digest import chunk_digest
from cbtfs.store.repository import writing
from tests.cli.run_cbtfs import Run, process, runner
from tests.core.test_names import hostile_names
from tests.make_points import new_repository
from tests.mount.mount_process import Server, serving
from tests.source.fake import FakeDisk

pytestmark = pytest.mark.mounts

NAMES: Final = list(dict.fromkeys(json.loads(json.dumps(hostile_names()))))
"""Names as JSON decodes them: two adjacent surrogates become one character."""
VMS: Final = NAMES[::4]
MOMENT: Final = datetime(2026, 1, 1, tzinfo=UTC)
BLOCK: Final = 64 << 10


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a VM for every fourth name, with disks of that name and the next three."""
    folder = tmp_path_factory.mktemp("hostile")
    path = new_repository(folder / "repository")
    before = sorted(os.listdir(folder))
    with writing(path) as opened:
        objects = opened.object_writer()
        for number, name in enumerate(VMS):
            labels = NAMES[4 * number : 4 * number + 4]
            disks = [DiskInput(label, FakeDisk(512).take_snapshot(), label) for label in labels]
            ingest_point(opened, objects, VmInput(name), disks, PointOptions(MOMENT))
        objects.close()
    assert sorted(os.listdir(folder)) == before
    return path


@pytest.fixture(scope="module")
def mounted(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(repository, tmp_path_factory.mktemp("mount") / "mnt") as server:
        yield server


def test_there_are_about_two_thousand_names() -> None:
    assert len(NAMES) > 1500


def test_every_vm_and_disk_is_in_the_mount_once_and_has_its_name(mounted: Server) -> None:
    names, labels = [], []
    for folder in mounted.root.iterdir():
        document = json.loads((folder / "latest" / "vm.json").read_bytes())
        names.append(document["vm"]["name"])
        labels += [disk["disk"] for disk in document["disks"]]
        assert document["vm"]["directory"] == folder.name
        images = sorted(path.name for path in (folder / "latest").glob("*.raw"))
        assert len(images) == len(document["disks"])
        assert all((folder / "latest" / image).read_bytes() == bytes(512) for image in images)

    assert sorted(names) == sorted(VMS)
    assert sorted(labels) == sorted(NAMES)


def test_a_listing_names_them_all_and_moves_no_cursor(repository: Path) -> None:
    words, document = (
        process("--repo", repository, "list"),
        process("--repo", repository, "list", "--json"),
    )

    assert {point["vm"] for point in document.document["points"]} == set(VMS)
    assert len(words.out.splitlines()) == len(VMS) + 1
    assert all(line.isprintable() for line in words.out.splitlines())
    assert document.out.isascii()


def test_names_are_accepted_by_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(512))
    run: Run = runner(new_repository(tmp_path / "repository"), capsys)
    for name in NAMES[:25]:
        done = run("ingest", "image", f"--vm={name}", f"--disk={name}", image, "--json")
        assert done.code == 0, done.err
        assert done.document["vm"] == name
        assert run("show", done.document["point"]).code == 0


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_ten_thousand_bombs_and_mutants_take_no_memory() -> None:
    """Content that declares or yields more than a block is refused before it is decompressed."""
    plain = random.Random(1).randbytes(BLOCK // 2) + bytes(BLOCK // 2)
    good = zstandard.compress(plain)
    bombs = [
        zstandard.compress(bytes(256 << 20)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(256 << 20)),
    ]
    rnd = random.Random(2)
    digest = chunk_digest(plain)
    refused = 0
    before = _peak()

    for number in range(10_000):
        data = bytearray(rnd.choice(bombs) if number % 4 == 0 else good)
        for _ in range(number % 3):
            data[rnd.randrange(len(data))] = rnd.randrange(256)
        frame = Frame(64, len(data), BLOCK, Kind.CHUNK, 0, Codec.ZSTD, digest)
        try:
            assert codec.decode(frame, bytes(data)) == plain
        except DataCorrupt:
            refused += 1

    assert 2500 <= refused < 10_000
    assert _peak() - before < 32 << 20
