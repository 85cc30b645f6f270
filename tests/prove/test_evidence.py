"""The directory with the evidence of boots is bounded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from cbtfs.core.ids import PointId
from cbtfs.errors import MountFailed
from cbtfs.prove.evidence import keep
from cbtfs.qemu.guest import Guest

MIB = 1 << 20


@dataclass(frozen=True)
class Screen:
    """A guest whose screen is a file of *size* bytes; none without a size."""

    size: int | None = 100

    def screenshot(self, path: Path) -> None:
        if self.size is None:
            raise MountFailed("QEMU cannot make it")
        path.touch()
        os.truncate(path, self.size)


def _keep(folder: Path, number: int, size: int | None = 100) -> None:
    """Keep the evidence of a boot that is *number* seconds after the first one."""
    point = PointId(f"{number:032x}")
    keep(folder, point, f"boot {number}\n", cast("Guest", Screen(size)), folder.parent)
    for path in folder.glob(f"{point}.*"):
        os.utime(path, (number, number))


def _kept(folder: Path, suffix: str) -> Sequence[int]:
    return sorted(int(path.stem, 16) for path in folder.glob(f"*{suffix}") if len(path.stem) == 32)


def test_the_evidence_of_the_last_hundred_boots_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "boots"
    for number in range(1, 103):
        _keep(folder, number)

    assert _kept(folder, ".log") == _kept(folder, ".png") == list(range(3, 103))
    assert (folder / f"{102:032x}.log").read_text() == "boot 102\n"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_all_files_together_have_at_most_64_mib(tmp_path: Path) -> None:
    folder = tmp_path / "boots"
    for number in range(1, 5):
        _keep(folder, number, 30 * MIB)

    assert _kept(folder, ".png") == _kept(folder, ".log") == [3, 4]


def test_files_of_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "boots"
    folder.mkdir()
    others = [folder / name for name in ("notes.txt", "screen.png", f"{1:032x}.txt")]
    for path in others:
        path.touch()
        os.truncate(path, 100 * MIB)
    _keep(folder, 1)

    assert all(path.stat().st_size == 100 * MIB for path in others)
    assert _kept(folder, ".png") == [1]


def test_a_boot_without_a_screenshot_keeps_its_output(tmp_path: Path) -> None:
    _keep(tmp_path / "boots", 1, None)

    assert os.listdir(tmp_path / "boots") == [f"{1:032x}.log"]


@pytest.mark.parametrize("size", [65 * MIB, 1 << 40])
def test_a_screenshot_of_a_strange_size_is_left_out(tmp_path: Path, size: int) -> None:
    _keep(tmp_path / "boots", 1, size)

    assert os.listdir(tmp_path / "boots") == [f"{1:032x}.log"]


def test_a_link_in_place_of_a_screenshot_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")

    class Linked:
        def screenshot(self, path: Path) -> None:
            path.symlink_to(secret)

    keep(tmp_path / "boots", PointId("1" * 32), "", cast("Guest", Linked()), tmp_path)

    assert os.listdir(tmp_path / "boots") == ["1" * 32 + ".log"]
