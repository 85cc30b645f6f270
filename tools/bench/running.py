"""Rows on running from a point: overlays and exports."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.errors import CbtfsError
from cbtfs.listing import current_clock, find_point
from cbtfs.overlay.create import create_overlay
from cbtfs.overlay.exports import fuse_exports
from cbtfs.overlay.folder import OverlayFolder, overlay_folder
from cbtfs.qemu.composed import ComposedDisk, blockdevs
from cbtfs.qemu.daemon import storage_daemon
from cbtfs.qemu.images import create_image
from cbtfs.source.export import NbdSource
from cbtfs.store.repository import reading
from tools.bench.bench import Bench
from tools.bench.content import BLOCK, Content
from tools.bench.pooled import PooledDisk
from tools.bench.programs import Program, run
from tools.bench.row import OURS, Goal, Row, alternate
from tools.bench.servers import qemu_exported
from tools.bench.take import VM, capturing_source, new_repository

RAW_FILE: Final = "qcow2 over the raw file"
SCAN: Final = "a full scan"
_PIECE: Final = 4 << 20
_RUN_BLOCKS: Final = 16
"""Consecutive blocks of a change: 1 MiB."""


def rows(bench: Bench) -> Iterator[Row]:
    """Measure an overlay against an image over a raw file, starts, and a commit."""
    with bench.scratch() as folder:
        repository, base = new_repository(folder / "repository"), folder / "base.raw"
        disk = PooledDisk(bench.sizes.disk, "running")
        with capturing_source(repository, lambda: disk) as take:
            take(None)
        with base.open("wb") as file:
            for at in range(0, disk.size, _PIECE):
                file.write(disk.read(Extent(at, min(_PIECE, disk.size - at))))
        ours, overlay = Program(OURS), _created(repository, folder)
        directory = f"--dir={overlay.path.parent}"
        start = ours.command(repository, "overlay", "start", overlay.name, directory)
        starts: list[float] = []
        with _ready(start, starts) as lines, _over_raw_file(folder, base) as peer:
            files = {OURS: Path(lines[0]), RAW_FILE: peer}
            for name, measure, seed, goals in _ACCESSES:
                contenders = {
                    contender: partial(measure, bench, path, count(seed))
                    for contender, path in files.items()
                }
                samples = alternate(contenders, bench.sizes.repeats)
                title = f"overlay: 4 KiB random {name}"
                yield Row(title, "IOPS", True, "repository warm", samples, list(goals))
        socket = folder / "socket"
        socket.mkdir()
        export = ours.command(repository, "export", f"{VM}@latest", f"--socket={socket}")
        yield _start_row(bench, "overlay start", start, starts)
        yield _start_row(bench, "export", export, [])
    yield from _rows_of_large_disk(bench)


def _start_row(bench: Bench, title: str, command: list[str], seconds: list[float]) -> Row:
    """Measure a start until the first byte; *seconds* are those of earlier starts."""
    while len(seconds) < bench.sizes.repeats:
        with _ready(command, seconds):
            pass
    samples = {OURS: seconds}
    return Row(f"{title}: first byte", "s", False, "repository warm", samples, [Goal(1.0)])


def _rows_of_large_disk(bench: Bench) -> Iterator[Row]:
    """Measure a start, and a commit of runs of 1 MiB against a full scan of the disk."""
    with bench.scratch() as folder:
        repository = new_repository(folder / "repository")
        disk = PooledDisk(bench.sizes.commit_disk, "commit")
        with capturing_source(repository, lambda: disk) as take:
            take(None)
        overlay, content = _created(repository, folder), Content("guest")
        runs = range(0, disk.size // BLOCK, _RUN_BLOCKS)
        with (
            qemu_exported(overlay.path / "disk.qcow2", folder / "raw", is_writable=True) as path,
            path.open("r+b", buffering=0) as raw,
        ):
            for at in content.some_of(runs, bench.sizes.change // (_RUN_BLOCKS * BLOCK)):
                raw.seek(at * BLOCK)
                raw.write(b"".join(content.block("random") for _ in range(_RUN_BLOCKS)))
        size = f"disk of {bench.sizes.commit_disk >> 20} MiB"
        words = overlay.name, f"--dir={overlay.path.parent}"
        start = Program(OURS).command(repository, "overlay", "start", *words)
        yield _start_row(bench, f"overlay start, {size}", start, [])
        seconds = Program(OURS).run(repository, "overlay", "commit", *words).seconds
        with capturing_source(repository, lambda: disk) as take:
            started = time.perf_counter()
            take(None)
            scan = time.perf_counter() - started
    title = f"overlay commit: {bench.sizes.change >> 20} MiB changed, {size}"
    samples = {OURS: [seconds], SCAN: [scan]}
    yield Row(title, "s", False, "repository warm", samples, [Goal(20, SCAN)])


def _created(repository: Path, folder: Path) -> OverlayFolder:
    overlay = overlay_folder(folder / "overlays", "bench")
    with reading(repository) as opened:
        point = find_point(opened, f"{VM}@latest", current_clock()).manifest
        create_overlay(opened, point, overlay, None)
    return overlay


@contextmanager
def _ready(command: list[str], seconds: list[float]) -> Iterator[list[str]]:
    """Run a command that serves disks; yield the lines before its line `ready`.

    Append to *seconds* the time until the first sector of a raw file, or the first answer of an
    export, has arrived.
    """
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        try:
            assert child.stdout is not None
            lines = []
            for line in child.stdout:
                if line == "ready\n":
                    break
                lines.append(line.strip())
            else:
                raise CbtfsError(f"{command[4]} does not start")
            if lines[0].startswith("nbd"):
                NbdSource(lines[0]).close()
            else:
                with Path(lines[0]).open("rb", buffering=0) as file:
                    file.read(512)
            seconds.append(time.perf_counter() - started)
            yield lines
        finally:
            child.terminate()


@contextmanager
def _over_raw_file(folder: Path, base: Path) -> Iterator[Path]:
    """Serve an image over the raw file *base* as an overlay is served; yield the exported file."""
    image, exported, runtime = folder / "peer.qcow2", folder / "peer.raw", folder / "runtime"
    create_image(image, base.stat().st_size)
    exported.touch()
    runtime.mkdir()
    options = [
        *blockdevs([ComposedDisk(image, base)]),
        *fuse_exports([exported], allows_others=True),
    ]
    with storage_daemon(options, runtime):
        yield exported


def _write(bench: Bench, path: Path, seeds: Iterator[int]) -> float:
    """Write pages in an order that depends on the next of *seeds*, for one sample."""
    return _iops(bench, path, next(seeds), "write", "--rw=randwrite", "--fsync=32")


def _read(bench: Bench, path: Path, seeds: Iterator[int]) -> float:
    """Read other pages than those written, most of which are those of the point."""
    return _iops(bench, path, next(seeds), "read", "--rw=randread", "--readonly")


_ACCESSES: Final = (
    ("write, fsync every 32", _write, 1, (Goal(0.9, RAW_FILE),)),
    ("read", _read, 101, (Goal(0.9, RAW_FILE),)),
    ("read, the same pages again", _read, 101, ()),
)
"""Name, function, first seed and goals. Each sample has another seed, so other pages."""


def _iops(bench: Bench, path: Path, seed: int, kind: str, *options: str) -> float:
    words = [
        *("fio", "--name=running", "--thread", f"--filename={path}", "--bs=4k"),
        *("--ioengine=psync", "--time_based", "--output-format=json", *options),
        f"--runtime={int(bench.sizes.fio_seconds * 1000)}ms",
        *("--randrepeat=0", f"--randseed={seed}"),  # With randrepeat fio ignores the seed.
    ]
    output = run(words).output
    rate: float = json.loads(output[output.index("{") :])["jobs"][0][kind]["iops"]
    return rate
