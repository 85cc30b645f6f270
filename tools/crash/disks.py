"""Campaigns: power cuts and full disks."""

import contextlib
import os
from pathlib import Path
from typing import Final, get_args

from tools.crash.campaign import Campaign, expect_success
from tools.crash.child import BUG
from tools.crash.lifecycle import OPERATIONS, Lifecycle
from tools.crash.loop import FileSystem, LoopDisk, loop_disk
from tools.crash.result import CampaignResult
from tools.crash.verify import Violation

_SIZE: Final = 320 << 20
"""Slightly more than the minimum size of mkfs.xfs."""
_SMALL: Final = 64 << 20
_ZEROS: Final = bytes(64 << 10)


def power(folder: Path, seed: int, count: int) -> CampaignResult:
    """Cut the power at random moments of ingest, forget, prune and repair, on ext4 and XFS."""
    unacknowledged = points = 0
    kinds: tuple[FileSystem, ...] = get_args(FileSystem)
    for kind in kinds:
        with loop_disk(folder, kind, _SIZE) as disk:
            lifecycle = Lifecycle(_campaign(folder / f"{kind}.out", seed, disk))
            _cut(lifecycle, disk, count // len(kinds))
            unacknowledged += lifecycle.unacknowledged
            points += lifecycle.campaign.points
    return CampaignResult(
        "power", count, "power cuts", points, unacknowledged, 0, " and ".join(kinds)
    )


def _campaign(folder: Path, seed: int, disk: LoopDisk) -> Campaign:
    """Return a campaign whose image and record are outside the disk under test."""
    folder.mkdir()
    return Campaign(folder, seed, disk.mountpoint / "repository")


def _cut(lifecycle: Lifecycle, disk: LoopDisk, count: int) -> None:
    for _ in range(4):
        lifecycle.campaign.run_undisturbed()
    for _ in range(count):
        is_cut = False

        def before_kill() -> None:
            nonlocal is_cut
            disk.cut_power()
            is_cut = True

        seconds = lifecycle.campaign.rnd.random() * 0.15
        lifecycle.run(lifecycle.next_operation(), kill_after=seconds, before_kill=before_kill)
        if not is_cut:
            disk.cut_power()  # A power cut just after the acknowledgement must not lose data.
        disk.power_up()
        lifecycle.prove()
    lifecycle.prove_all()


def full(folder: Path, seed: int, count: int) -> CampaignResult:
    """Fill the disk to random levels; forget and prune must then free space."""
    codes: list[int] = []
    freed = 0
    with loop_disk(folder, "ext4", _SMALL) as disk:
        lifecycle = Lifecycle(_campaign(folder / "full.out", seed, disk))
        filler = disk.mountpoint / "filler"
        for _ in range(6):
            lifecycle.campaign.run_undisturbed()
        for _ in range(count):
            exit_codes, freed_bytes = _fill(lifecycle, filler)
            codes += exit_codes
            freed += freed_bytes
            lifecycle.prove()
        lifecycle.prove_all()
        failed = sum(1 for code in codes if code)
        note = f"{failed} of {len(codes)} runs failed for lack of space; prune freed {freed} bytes"
        return CampaignResult(
            "full",
            count,
            "full disks",
            lifecycle.campaign.points,
            lifecycle.unacknowledged,
            0,
            note,
        )


def _fill(lifecycle: Lifecycle, filler: Path) -> tuple[list[int], int]:
    """Run every operation with little or no free space; then forget and prune must succeed.

    Returns the exit codes of the operations and the bytes that the last prune freed.
    """
    left = lifecycle.campaign.rnd.choice([0, 0, 4096, 50_000, 100_000, 400_000])
    codes = []
    for operation in lifecycle.campaign.rnd.sample(OPERATIONS, len(OPERATIONS)):
        fill_disk(filler, left)
        result = lifecycle.run(operation)
        if result.code == BUG or result.code < 0:
            raise Violation(f"{operation} with {left} bytes free: {result}")
        codes.append(result.code)
    lifecycle.prove_readable()
    fill_disk(filler, left)
    expect_success(lifecycle.run("forget"))
    (freed,) = expect_success(lifecycle.run("prune")).values("freed")
    filler.unlink()
    return codes, freed


def fill_disk(filler: Path, left: int) -> None:
    """Extend *filler* until only *left* bytes are free."""
    with filler.open("ab", buffering=0) as file:
        size = file.tell()
        with contextlib.suppress(OSError):
            while count := file.write(_ZEROS):
                size += count
        file.truncate(max(size - left, 0))
        os.fsync(file.fileno())
