"""`cbtfs blame` against the images themselves."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbtfs.core.manifest import Manifest
from cbtfs.store.repository import create_repository
from cbtfs.store.settings import new_settings
from tests.cli.run_cbtfs import Run, process, runner
from tests.make_points import BLOCK, add_point, new_repository

IMAGES = st.lists(
    st.builds(
        lambda blocks, end: b"".join(bytes([b]) * BLOCK for b in blocks)[
            : len(blocks) * BLOCK - end
        ],
        st.lists(st.sampled_from([0, 0, 1, 2]), min_size=1, max_size=130),
        st.sampled_from([0, 0, 1, BLOCK - 1]),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.fixture
def run(repository: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(repository, capsys)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(IMAGES)
def test_each_block_belongs_to_the_point_that_changed_it(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    images: list[bytes],
) -> None:
    path = tmp_path_factory.mktemp("repository")
    create_repository(path, new_settings(BLOCK, 1))
    ids = [add_point(path, {"d": image}).point for image in images]
    last = images[-1]

    done = runner(path, capsys)("blame", "vm@latest", "d", "--json")

    assert done.code == 0
    at = 0
    for item in done.document:
        start, length = item["start"], item["length"]
        assert (start, length > 0) == (at, True)
        at += length
        assert any(last[start:at]) is (item["state"] == "data")
        for block in {start - start % BLOCK, (at - 1) - (at - 1) % BLOCK}:
            byte = max(block, start)
            assert item["point"] == ids[_writer(images, byte)]
    assert at == len(last)


def _writer(images: list[bytes], byte: int) -> int:
    block = byte // BLOCK * BLOCK
    writer = 0
    for number in range(1, len(images)):
        before, after = images[number - 1], images[number]
        is_resized = (byte < len(before)) != (byte < len(after))
        parts = [image[block : block + BLOCK].rstrip(b"\0") for image in (before, after)]
        if is_resized or parts[0] != parts[1]:
            writer = number
    return writer


def test_lines_have_columns_and_a_range_limits_them(repository: Path) -> None:
    add_point(repository, {"d": b"\x01" * BLOCK + bytes(2 * BLOCK)})
    add_point(repository, {"d": b"\x01" * BLOCK + b"\x02" * BLOCK + bytes(BLOCK)})
    first, second = "vm@2026-01-01T00-00-01Z", "vm@2026-01-01T00-00-02Z"

    whole = process("--repo", repository, "blame", "vm@latest", "d")
    part = process("--repo", repository, "blame", "vm@latest", "d", "--extent", "100+4K")

    assert whole.out.splitlines() == [
        f"0 {BLOCK} data {first}",
        f"{BLOCK} {BLOCK} data {second}",
        f"{2 * BLOCK} {BLOCK} zero {first}",
    ]
    assert part.out.splitlines() == [
        f"100 {BLOCK - 100} data {first}",
        f"{BLOCK} 100 data {second}",
    ]


def test_an_earlier_point_does_not_know_later_ones(run: Run, repository: Path) -> None:
    first = add_point(repository, {"d": b"\x01" * BLOCK})
    add_point(repository, {"d": b"\x02" * BLOCK})

    (item,) = run("blame", "vm@latest~1", "d", "--json").document

    assert item["point"] == first.point


def test_a_forgotten_point_leaves_its_blocks_to_the_next(run: Run, repository: Path) -> None:
    ids = [add_point(repository, {"d": bytes([n]) * BLOCK}).point for n in (1, 2, 2)]
    assert run("forget", ids[1]).code == 0

    (item,) = run("blame", "vm@latest", "d", "--json").document

    assert item["point"] == ids[2]


def test_a_disk_that_is_new_or_was_away_is_followed_by_its_id(run: Run, repository: Path) -> None:
    add_point(repository, {"d": b"\x01" * BLOCK})
    add_point(repository, {"d": b"\x01" * BLOCK, "e": b"\x05" * BLOCK})
    added = add_point(repository, {"d": b"\x01" * BLOCK, "e": b"\x06" * BLOCK})

    (item,) = run("blame", "vm@latest", "e", "--json").document

    assert item["point"] == added.point


def test_another_block_size_begins_the_list(run: Run, repository: Path) -> None:
    def doubled(manifest: Manifest) -> Manifest:
        return replace(
            manifest, disks=tuple(replace(d, block_size=2 * BLOCK) for d in manifest.disks)
        )

    add_point(repository, {"d": bytes(4 * BLOCK)}, change=doubled)
    second = add_point(repository, {"d": bytes(4 * BLOCK)})

    (item,) = run("blame", "vm@latest", "d", "--json").document

    assert (item["point"], item["length"]) == (second.point, 4 * BLOCK)


def test_an_empty_disk_has_no_extents(run: Run, repository: Path) -> None:
    add_point(repository, {"d": b""})

    assert run("blame", "vm@latest", "d", "--json").document == []


@pytest.mark.parametrize("text", ["", "1", "1+", "+1", "a+b", "0+0", "-1+2", "1+2+3"])
def test_a_range_that_is_none_is_refused(run: Run, repository: Path, text: str) -> None:
    add_point(repository, {"d": bytes(BLOCK)})

    done = run("blame", "vm@latest", "d", f"--extent={text}")

    assert done.code == 2
    assert "START+LENGTH" in done.err


def test_a_range_beyond_the_end_is_refused(run: Run, repository: Path) -> None:
    add_point(repository, {"d": bytes(BLOCK)})

    done = run("blame", "vm@latest", "d", "--extent=1+4K")

    assert done.code == 2
    assert f"beyond the disk's {BLOCK} bytes" in done.err


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_plot_is_drawn(run: Run, repository: Path, suffix: str) -> None:
    add_point(repository, {"d": b"\x01" * 9 * BLOCK + bytes(BLOCK)})
    add_point(repository, {"d": b"\x01" * 5 * BLOCK + b"\x02" * 4 * BLOCK + bytes(BLOCK)})
    file = repository.parent / f"$ages{suffix}"

    assert run("blame", "vm@latest", "d", "--plot", file).code == 0

    head = file.read_bytes()[:200]
    assert b"<?xml" in head or head.startswith(b"\x89PNG")


def test_a_plot_and_a_document_are_not_both_made(run: Run, repository: Path) -> None:
    add_point(repository, {"d": bytes(BLOCK)})

    assert run("blame", "vm", "d", "--plot", repository.parent / "a.svg", "--json").code == 2


def _parts_of_a_file(disk: Path, partition: int, path: str) -> list[tuple[int, int, int]]:
    """Return offset in the file, length, and offset on the disk, by debugfs."""
    done = subprocess.run(
        ["debugfs", "-R", f"blocks {path}", f"{disk}?offset={partition}"],
        check=True,
        capture_output=True,
        text=True,
    )
    blocks = [int(word) for word in done.stdout.split()]
    return [(n * 1024, 1024, partition + block * 1024) for n, block in enumerate(blocks)]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Disks with an ext4 in a partition: a fragmented file, and changes of some of its blocks."""
    folder = tmp_path_factory.mktemp("disks")
    disk, partition = folder / "0", folder / "partition"
    for path, mib in ((disk, 18), (partition, 16)):
        path.touch()
        os.truncate(path, mib << 20)
    table = f"label: gpt\nstart=2048, size={16 << 11}\n"
    subprocess.run(["sfdisk", "--quiet", disk], check=True, input=table.encode())
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", "-O", "inline_data", partition], check=True)
    content = folder / "content"
    content.write_bytes(b"".join(bytes([n + 1]) * 1024 for n in range(200)))
    (folder / "tiny").write_text("tiny")
    script = [f"write {folder / 'tiny'} tiny", "mkdir var", "symlink var/link app.db", "cd var"]
    script += [*(f"write {content} spacer{n}" for n in range(3)), "rm spacer1"]
    script += [f"write {content} app.db"]
    commands = folder / "commands"
    commands.write_text("\n".join(script) + "\n")
    subprocess.run(["debugfs", "-w", "-f", commands, partition], check=True, capture_output=True)
    with disk.open("r+b") as file:
        file.seek(1 << 20)
        file.write(partition.read_bytes())
    parts = _parts_of_a_file(disk, 1 << 20, "/var/app.db")
    disks = [disk]
    for number, changed in enumerate([range(10), range(150, 151), range(199, 200)], 1):
        copy = Path(shutil.copyfile(disks[-1], folder / str(number)))
        with copy.open("r+b") as file:
            for index in changed:
                file.seek(parts[index][2])
                file.write(bytes([200 + number]) * 1024)
        disks.append(copy)
    return disks


def test_the_blocks_of_a_file_belong_to_the_points_that_wrote_them(
    run: Run, guest: list[Path]
) -> None:
    points = [
        run("ingest", "image", "--vm=web", "--disk=root", disk, "--json").document["point"]
        for disk in guest
    ]

    done = run("blame", "web", "root", "--file=/var/link", "--json")

    parts = _parts_of_a_file(guest[-1], 1 << 20, "/var/app.db")
    images = [disk.read_bytes() for disk in guest]
    expected = {}
    for at, length, offset in parts:
        block = slice(offset - offset % BLOCK, offset - offset % BLOCK + BLOCK)
        writer = max(
            [n for n in range(1, len(images)) if images[n][block] != images[n - 1][block]] or [0]
        )
        expected.update({at + k: (offset + k, points[writer]) for k in range(0, length, 512)})
    shown = {
        item["file_offset"] + k: (item["start"] + k, item["point"])
        for item in done.document
        for k in range(0, item["length"], 512)
    }
    assert done.code == 0, done.err
    assert shown == expected
    assert {point for _, point in expected.values()} == set(points)
    starts = [item["file_offset"] for item in done.document]
    assert starts == sorted(starts)
    lines = run("blame", "web", "root", "--file=/var/app.db").out.splitlines()
    assert [int(line.split()[0]) for line in lines] == starts


def test_a_file_that_is_not_on_the_disk_is_reported(run: Run, guest: list[Path]) -> None:
    assert run("ingest", "image", "--vm=web", "--disk=root", guest[0]).code == 0

    tiny = run("blame", "web", "root", "--file=/tiny")

    assert (tiny.code, tiny.out) == (0, "")
    assert "4 bytes of /tiny have no known place on a disk" in tiny.err
    assert run("blame", "web", "root", "--file=/none").code == 13
    directory = run("blame", "web", "root", "--file=/var")
    assert (directory.code, directory.out) == (2, "")
    assert "/var is not a regular file but a directory" in directory.err
    assert run("blame", "web", "root", "--file=/tiny", "--extent=0+1").code == 2
