"""The appliance that replays the log of an XFS: nobody else may have made or changed it."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.prove.part import Untestable
from cbtfs.prove.xfs_log import prepared_appliance

NAMES = ("kernel", "initrd", "root")


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the directory of an appliance that libguestfs has built."""
    monkeypatch.setattr("cbtfs.prove.xfs_log._CACHE", str(tmp_path))
    path = tmp_path / f".guestfs-{os.geteuid()}" / "appliance.d"
    path.mkdir(parents=True, mode=0o755)
    path.parent.chmod(0o755)
    for name in NAMES:
        (path / name).write_text(name)
        (path / name).chmod(0o644)
    return path


def _prepare(built: Path, name: str = "first") -> Path:
    folder = built.parents[1] / name
    folder.mkdir()
    return prepared_appliance("/bin/false", folder, threading.Event())


def test_the_appliance_of_this_user_is_taken_as_it_is(built: Path) -> None:
    folder = _prepare(built)

    assert {path.name for path in folder.iterdir()} == {*NAMES, "README.fixed"}
    assert [(folder / name).read_text() for name in NAMES] == [*NAMES]


@pytest.mark.parametrize(
    "change",
    [
        lambda built: (built / "root").unlink(),
        lambda built: (built / "kernel").chmod(0o666),
        lambda built: built.chmod(0o777),
        lambda built: built.parent.chmod(0o775),
        lambda built: os.chown(built / "initrd", 65534, 65534),
        lambda built: os.chown(built.parent, 65534, 65534),
    ],
)
def test_an_appliance_of_others_is_refused(built: Path, change: Callable[[Path], None]) -> None:
    change(built)

    with pytest.raises(Untestable, match="libguestfs did not build its appliance"):
        _prepare(built)
