"""The upgrade of a repository with one writer to shared writers."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from cbtfs.core.distrust import Distrust
from cbtfs.core.manifest import Manifest, PointState
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.store.backend import layout
from cbtfs.store.backend.local import Directory
from cbtfs.store.repository import Repository, reading, writing
from cbtfs.store.settings import load_settings
from cbtfs.store.shared import upgrade
from tests.encrypted import create_encrypted, encrypted_settings
from tests.make_points import add_point, new_repository, read_point

CONTENT = bytes(range(256)) * 64
PROGRAM = """
import sys
from cbtfs.core import settings
from cbtfs.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
OLD_PROGRAM = PROGRAM.replace(
    "from cbtfs.cli",
    "vars(settings)['KNOWN_FEATURES'] -= {'shared-writers-1'}\nfrom cbtfs.cli",
)
"""A program that does not know the feature."""


def fill(path: Path) -> tuple[Manifest, Manifest, Manifest]:
    """Commit three points: one with a changed state, one forgotten, one with distrusted lists."""
    first, second, third = (
        add_point(path, {"disk": bytes([number]) * 9 + CONTENT}) for number in range(3)
    )
    with writing(path) as opened:
        opened.put_states([PointState(first.point, is_protected=True, tags=("a",))])
        opened.forget([second.point])
        disk = third.disks[0].id
        record = Distrust(disk, third.point, third.order, None, "a" * 32, third.time)
        opened.distrust.arm(record).fire()
    return first, second, third


def seen(opened: Repository) -> Any:
    """Return everything that a user sees of a repository."""
    ids = opened.points.ids()
    return (
        ids,
        opened.points.forgotten_ids(),
        {point: opened.points.load_state(point)[0] for point in ids},
        {disk: opened.distrust.load(disk) for disk in opened.distrust.disks()},
        sorted(m.point for m in opened.forgotten().manifests),
    )


def upgraded(path: Path) -> None:
    with writing(path) as opened:
        if opened.shared is None:
            upgrade.share(opened)


def plain(path: Path) -> None:
    new_repository(path)


def encrypted(path: Path) -> None:
    create_encrypted(path, encrypted_settings())


@pytest.mark.parametrize("create", [plain, encrypted])
def test_everything_is_as_before(tmp_path: Path, create: Callable[[Path], None]) -> None:
    path = tmp_path / "repository"
    create(path)
    first, second, third = fill(path)
    with reading(path) as opened:
        before = seen(opened)

    upgraded(path)

    assert load_settings(path).is_shared
    with reading(path) as opened:
        assert seen(opened) == before
    names = {file.name for file in (path / "points").iterdir()}
    assert names == {"marker.json", first.point, second.point, third.point}
    with writing(path) as opened:
        opened.points.unforget([second.point])
    for number, point in enumerate((first, second, third)):
        assert read_point(path, point) == {"disk": bytes([number]) * 9 + CONTENT}


def test_a_second_upgrade_changes_nothing(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    fill(path)
    upgraded(path)
    with reading(path) as opened:
        before = seen(opened)

    assert main(["--repo", str(path), "upgrade", "--shared-writers"]) == 0

    with reading(path) as opened:
        assert seen(opened) == before


def test_new_points_and_prunes_follow_an_upgrade(tmp_path: Path) -> None:
    path = new_repository(tmp_path / "repository")
    first, second, _ = fill(path)
    upgraded(path)

    later = add_point(path, {"disk": CONTENT})
    with writing(path) as opened:
        prune(opened, PruneLimits())

    assert read_point(path, later) == {"disk": CONTENT}
    assert read_point(path, first) == {"disk": bytes([0]) * 9 + CONTENT}
    with reading(path) as opened:
        assert second.point not in opened.points.ids()


class DiedError(BaseException):
    """The death of the upgrade before a change."""


@pytest.mark.parametrize("goes_on_as", ["one writer", "upgrade"])
def test_an_upgrade_that_dies_anywhere_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goes_on_as: str
) -> None:
    deaths, is_done = 0, False
    while not is_done:
        path = new_repository(tmp_path / f"repository {deaths}")
        first, second, _ = fill(path)
        with reading(path) as opened:
            before = seen(opened)
        with monkeypatch.context() as patch:
            _die_after(deaths, patch)
            try:
                upgraded(path)
                is_done = True
            except DiedError:
                deaths += 3
        if goes_on_as == "one writer":
            with writing(path) as opened:
                opened.put_states([PointState(first.point, tags=("later",))])
                opened.points.unforget([second.point])
                opened.follow()
            upgraded(path)
            with reading(path) as opened:
                assert opened.points.ids() == before[0] | {second.point}
                assert opened.points.load_state(first.point)[0].tags == ("later",)
        else:
            upgraded(path)
            with reading(path) as opened:
                assert seen(opened) == before

    assert deaths > 6


def _die_after(changes: int, patch: pytest.MonkeyPatch) -> None:
    left = changes

    def counted(inner: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object) -> object:
            nonlocal left
            if left == 0:
                raise DiedError
            left -= 1
            return inner(*arguments)

        return change

    for name in ("create", "rename", "delete"):
        patch.setattr(Directory, name, counted(getattr(Directory, name)))
    patch.setattr(upgrade, "save_record", counted(layout.save_record))


@pytest.mark.parametrize(("program", "code"), [(OLD_PROGRAM, 12), (PROGRAM, 0)])
def test_a_program_that_waits_for_the_lock(tmp_path: Path, program: str, code: int) -> None:
    path = new_repository(tmp_path / "repository")
    fill(path)
    image = tmp_path / "image"
    image.write_bytes(CONTENT)
    words = ("ingest", "image", "--vm", "vm", "--disk", "disk", str(image), "--lock-wait", "1m")
    with writing(path) as opened:
        child = subprocess.Popen(
            [sys.executable, "-c", program, "--repo", str(path), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stderr is not None
        assert "waiting for" in child.stderr.readline()
        upgrade.share(opened)
        before = {file.name for file in (path / "points").iterdir()}
    _, errors = child.communicate(timeout=60)

    assert child.returncode == code, errors
    assert ("shared-writers-1" in errors) == (code == 12)
    added = {file.name for file in (path / "points").iterdir()} - before
    assert len(added) == (code == 0)
