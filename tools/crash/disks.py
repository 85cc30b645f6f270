"""Campaigns: the power is cut, and the disk is full."""

import contextlib
import os
from pathlib import Path
from typing import Final, get_args

from tools.crash.campaign import Campaign, expect_well
from tools.crash.lives import VERBS, Lives
from tools.crash.loop import FileSystem, LoopDisk, loop_disk
from tools.crash.result import Result
from tools.crash.verify import Violation

_SIZE: Final = 320 << 20
"""The smallest that mkfs.xfs takes, and a little."""
_SMALL: Final = 64 << 20
_BUG: Final = 70
_ZEROS: Final = bytes(64 << 10)


def power(folder: Path, seed: int, count: int) -> Result:
    """The power goes at random moments of ingest, forget, prune and repair, on ext4 and XFS."""
    late = points = 0
    kinds: tuple[FileSystem, ...] = get_args(FileSystem)
    for kind in kinds:
        with loop_disk(folder, kind, _SIZE) as disk:
            lives = Lives(_campaign(folder / f"{kind}.out", seed, disk))
            _cut(lives, disk, count // len(kinds))
            late += lives.late
            points += lives.campaign.points
    return Result("power", count, "power cuts", points, late, 0, " and ".join(kinds))


def _campaign(folder: Path, seed: int, disk: LoopDisk) -> Campaign:
    """A campaign whose image and record are not on the disk that is tormented."""
    folder.mkdir()
    return Campaign(folder, seed, disk.mountpoint / "repository")


def _cut(lives: Lives, disk: LoopDisk, count: int) -> None:
    for _ in range(4):
        lives.campaign.run_well()
    for _ in range(count):
        is_cut = False

        def strike() -> None:
            nonlocal is_cut
            disk.cut_power()
            is_cut = True

        seconds = lives.campaign.rnd.random() * 0.15
        lives.run(lives.next_verb(), kill_after=seconds, strike=strike)
        if not is_cut:
            disk.cut_power()  # Just after it was acknowledged: that must last, too.
        disk.power_up()
        lives.prove()
    lives.prove_all()


def full(folder: Path, seed: int, count: int) -> Result:
    """The disk is full at random levels; then points are forgotten and pruned to freedom."""
    codes: list[int] = []
    freed = 0
    with loop_disk(folder, "ext4", _SMALL) as disk:
        lives = Lives(_campaign(folder / "full.out", seed, disk))
        filler = disk.mountpoint / "filler"
        for _ in range(6):
            lives.campaign.run_well()
        for _ in range(count):
            ended, given_back = _fill(lives, filler)
            codes += ended
            freed += given_back
            lives.prove()
        lives.prove_all()
        failed = sum(1 for code in codes if code)
        note = f"{failed} of {len(codes)} runs ended for want of room; prunes freed {freed} bytes"
        return Result("full", count, "full disks", lives.campaign.points, lives.late, 0, note)


def _fill(lives: Lives, filler: Path) -> tuple[list[int], int]:
    """Leave a little, or nothing; run every verb; then forget and prune must work.

    The exit codes of the verbs, and the bytes that the last prune freed.
    """
    left = lives.campaign.rnd.choice([0, 0, 4096, 50_000, 100_000, 400_000])
    codes = []
    for verb in lives.campaign.rnd.sample(VERBS, len(VERBS)):
        take_all_but(filler, left)
        outcome = lives.run(verb)
        if outcome.code == _BUG or outcome.code < 0:
            raise Violation(f"{verb} with {left} bytes left: {outcome}")
        codes.append(outcome.code)
    lives.prove_readable()
    take_all_but(filler, left)
    expect_well(lives.run("forget"))
    (freed,) = expect_well(lives.run("prune")).told("freed")
    filler.unlink()
    return codes, freed


def take_all_but(filler: Path, left: int) -> None:
    """Let *filler* take all room there is, but for *left* bytes."""
    with filler.open("ab", buffering=0) as file:
        size = file.tell()
        with contextlib.suppress(OSError):
            while count := file.write(_ZEROS):
                size += count
        file.truncate(max(size - left, 0))
        os.fsync(file.fileno())
