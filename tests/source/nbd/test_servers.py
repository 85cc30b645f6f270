"""Correct and misbehaving NBD servers as sources."""

import random
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceUnavailable
from cbtfs.source.export import NbdSource
from cbtfs.source.nbd import ALLOCATION, NbdExport, NbdLimits, TooManyExtents
from tests.cli.run_cbtfs import Run
from tests.source.implementations import write_sparse
from tests.source.nbd.misbehaving_server import Behaviour, MisbehavingServer, nbd_server
from tests.source.nbd.storage_daemon import qemu_nbd
from tools.vsim.rules import ReadAction, ReadRule

SIZE = 6 << 20
CONTENT = random.Random(5).randbytes(SIZE // 3) + bytes(SIZE // 3) + b"\1" * (SIZE // 3)
QUICK = NbdLimits(seconds=30, pauses=(0.01,))
WHOLE = Extent(0, SIZE)
INGEST = ("ingest", "image", "--vm=vm", "--disk=disk")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "disk.raw", CONTENT)


@pytest.fixture
def server(image: Path) -> Iterator[MisbehavingServer]:
    with nbd_server(image) as running:
        yield running


@pytest.mark.parametrize("form", ["raw", "qcow2", "vmdk", "vhdx", "vdi", "vpc"])
def test_any_format_that_qemu_opens_is_read(
    image: Path, tmp_path: Path, run: Run, form: str
) -> None:
    disk, back = tmp_path / f"as.{form}", tmp_path / "back.raw"
    subprocess.run(["qemu-img", "convert", "-O", form, image, disk], check=True)
    read = subprocess.run(
        ["qemu-img", "convert", "-f", form, "-O", "raw", disk, tmp_path / "as-qemu.raw"],
        check=False,
    )

    with qemu_nbd(disk, "-f", form) as uri:
        done = run("ingest", "image", "--vm=vm", "--disk=disk", "--json", uri)

    assert read.returncode == 0
    assert done.code == 0, done.err
    assert run("restore", "vm@latest", "disk", back).code == 0
    assert back.read_bytes() == (tmp_path / "as-qemu.raw").read_bytes()
    assert back.read_bytes()[:SIZE] == CONTENT


def test_unallocated_ranges_are_not_read(image: Path, tmp_path: Path, run: Run) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", image, disk], check=True)

    with qemu_nbd(disk, "-f", "qcow2", "--shared=4") as uri:
        done = run("ingest", "image", "--vm=vm", "--disk=disk", "--json", uri)

    assert done.document["disks"][0]["read_bytes"] == SIZE * 2 // 3


@pytest.mark.parametrize(
    ("holes", "allocated"),
    [("zero", SIZE * 2 // 3), ("hole", SIZE), ("none", SIZE)],
)
def test_a_hole_counts_as_zeros_only_with_the_zero_flag(
    image: Path, holes: Literal["zero", "hole", "none"], allocated: int
) -> None:
    with (
        nbd_server(image, Behaviour(holes=holes)) as server,
        closing(NbdSource(server.uri)) as source,
    ):
        length = sum(extent.length for extent in source.allocated())

    assert length == allocated


def test_several_requests_are_in_flight(server: MisbehavingServer) -> None:
    has_another: list[bool] = []

    def check_next_request(start: int, end: int) -> None:
        if not has_another:
            has_another.append(server.is_another_request_waiting())

    server.behaviour.on_read = check_next_request
    with closing(NbdSource(server.uri)) as source:
        source.read(WHOLE)

    assert has_another == [True]


def test_a_server_that_accepts_one_client_gets_one_connection(image: Path) -> None:
    parts = [Extent(at, SIZE // 6) for at in range(0, SIZE, SIZE // 6)]
    limits = NbdLimits(seconds=2, pauses=())

    with (
        nbd_server(image, Behaviour(max_connections=1)) as server,
        closing(NbdSource(server.uri, limits=limits)) as source,
        ThreadPoolExecutor(6) as pool,
    ):
        pieces = list(pool.map(source.read, parts))

    assert pieces == [CONTENT[part.start : part.end] for part in parts]


def test_a_lost_connection_is_reopened(server: MisbehavingServer) -> None:
    rules = [ReadRule("close"), None]
    server.behaviour.on_read = lambda start, end: rules.pop(0) if rules else None
    with closing(NbdSource(server.uri, limits=NbdLimits(pauses=(0.01,)))) as source:
        assert source.read(WHOLE) == CONTENT


def test_a_read_that_fails_commits_nothing(server: MisbehavingServer, run: Run) -> None:
    server.behaviour.on_read = lambda start, end: ReadRule("eio")

    done = run(*INGEST, server.uri)

    assert done.code == 30
    assert "disk disk: " in done.err
    assert run("list", "--json").document == {"points": []}


@pytest.mark.parametrize("action", ["eio", "short", "close"])
def test_a_short_read_is_an_error(server: MisbehavingServer, action: ReadAction) -> None:
    server.behaviour.on_read = lambda start, end: ReadRule(action)

    source = NbdSource(server.uri, limits=QUICK)
    with closing(source), pytest.raises(SourceUnavailable):
        source.read(WHOLE)


def test_a_stalled_server_is_unavailable_after_the_timeout(
    server: MisbehavingServer, run: Run
) -> None:
    def stall(start: int, end: int) -> None:
        server.ended.wait()

    server.behaviour.on_read = stall

    done = run(*INGEST, "--timeout=0.2", server.uri)

    assert done.code == 30
    assert "no answer in 0.2 s" in done.err


def test_a_server_that_dies_is_unavailable(server: MisbehavingServer) -> None:
    with closing(NbdSource(server.uri, limits=QUICK)) as source:
        source.read(Extent(0, 512))
        server.stop()

        with pytest.raises(SourceUnavailable):
            source.read(WHOLE)


def test_an_unreachable_server_exits_with_30(run: Run, tmp_path: Path) -> None:
    done = run(*INGEST, f"nbd+unix:///?socket={tmp_path / 'nothing'}")

    assert done.code == 30
    assert "cannot open nbd+unix:///" in done.err


def test_a_missing_export_exits_with_30(image: Path, run: Run) -> None:
    with qemu_nbd(image, "-f", "raw", "--export-name=root") as uri:
        done = run(*INGEST, uri.replace(":///", ":///other"))

    assert done.code == 30


@pytest.mark.parametrize("size", [SIZE + (1 << 20), SIZE - (1 << 20)])
def test_another_size_after_a_reconnect_is_an_error(image: Path, size: int) -> None:
    behaviour = Behaviour(announced=[SIZE, size])
    behaviour.on_read = lambda start, end: ReadRule("close")
    with (
        nbd_server(image, behaviour) as server,
        closing(NbdSource(server.uri, limits=QUICK)) as source,
        pytest.raises(SourceUnavailable, match=r"the size of .* changed"),
    ):
        source.read(WHOLE)


def test_the_size_of_an_export_is_the_one_that_the_server_reports(image: Path, run: Run) -> None:
    with nbd_server(image, Behaviour(announced=[SIZE - 512])) as server:
        done = run(*INGEST, "--json", server.uri)

    assert done.document["disks"][0]["size"] == SIZE - 512


def test_a_password_in_a_uri_is_not_shown(run: Run) -> None:
    done = run(*INGEST, "nbds://user:canary@127.0.0.1:1/disk?tls-psk-file=/secret-canary")

    assert done.code == 30
    assert "canary" not in done.err


def test_an_export_above_the_maximum_size_is_refused(image: Path, run: Run) -> None:
    with nbd_server(image, Behaviour(announced=[1 << 56])) as server:
        done = run(*INGEST, server.uri)

    assert done.code == 30
    assert re.fullmatch(r"cbtfs: .* has 72057594037927936 bytes, and at most .*\n", done.err)


def test_an_export_with_too_many_extents_is_read_completely(
    image: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other page is a hole, and the number of extents in memory is limited."""
    with image.open("r+b") as file:
        for start in range(0, SIZE // 3, 8192):
            file.seek(start)
            file.write(bytes(4096))
    subprocess.run(["fallocate", "--dig-holes", image], check=True)
    monkeypatch.setattr("cbtfs.source.nbd._MAX_EXTENTS", 64)

    with nbd_server(image) as server, closing(NbdSource(server.uri)) as source:
        assert source.allocated() == [WHOLE]
        done = run(*INGEST, server.uri)

    assert done.code == 0, done.err
    assert run("restore", "vm@latest", "disk", tmp_path / "back").code == 0
    assert (tmp_path / "back").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("bound", ["_MAX_EXTENTS", "_MAX_SPARE_REQUESTS"])
def test_a_bitmap_with_too_many_extents_is_refused(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(f"cbtfs.source.nbd.{bound}", 0)
    with closing(NbdExport(server.uri)) as export, pytest.raises(TooManyExtents, match="too many"):
        export.dirty(ALLOCATION)


def test_the_rest_of_a_long_answer_is_requested_again(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(NbdExport(server.uri)) as export:
        whole = export.statuses(ALLOCATION)
        monkeypatch.setattr("cbtfs.source.nbd_connection._MAX_PER_ANSWER", 1)

        assert export.statuses(ALLOCATION) == whole
        assert len(whole) > 1
