"""4,000 points are listed while points are added and forgotten: each remaining one once."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import Manifest, PointState, encode_manifest, encode_state
from cbtfs.core.moment import format_moment, point_name
from cbtfs.store.identity import new_point_id
from cbtfs.store.repository import writing
from tests.make_points import EPOCH, MEMORY, add_point, new_repository
from tests.mount.mount_process import serving

POINTS: Final = 4_000
GOING: Final = 1_600
"""The oldest points, which are forgotten one after the other."""
_AT_ONCE: Final = 100


class Crowd:
    """A repository with many identical points of one VM."""

    def __init__(self, path: Path) -> None:
        self.path = new_repository(path)
        self._first = add_point(self.path, {"disk": b"content"})
        self._order = self._first.order
        self.points = [self._first, *(self._put() for _ in range(POINTS - 1))]
        self._catch_up()

    def _put(self) -> Manifest:
        """Write another manifest like a commit, without flushes."""
        self._order += 1
        time = EPOCH + timedelta(seconds=self._order)
        manifest = replace(
            self._first,
            point=new_point_id(),
            order=self._order,
            time=format_moment(time),
            name=point_name(time, ()),
        )
        folder = self.path / "points"
        state = encode_state(PointState(manifest.point))
        (folder / f"{manifest.point}.state").write_bytes(state)
        (folder / manifest.point).write_bytes(encode_manifest(manifest))
        return manifest

    def _catch_up(self) -> None:
        with writing(self.path, lock_wait=60):
            pass

    def come_and_go(self, going: list[PointId]) -> None:
        """Add points, and forget *going*."""
        for _ in range(_AT_ONCE):
            self._put()
        with writing(self.path, lock_wait=60) as repository:
            repository.forget(going)


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Crowd(Path(folder) / "repository")


@contextmanager
def coming_and_going(crowd: Crowd, points: list[Manifest]) -> Iterator[threading.Event]:
    """Forget *points* and add others until the end of the block; set the event after one round."""
    ends, has_begun = threading.Event(), threading.Event()

    def run() -> None:
        for at in range(0, len(points), _AT_ONCE):
            if ends.is_set():
                break
            crowd.come_and_go([manifest.point for manifest in points[at : at + _AT_ONCE]])
            has_begun.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield has_begun
    finally:
        ends.set()
        thread.join()


@pytest.mark.mounts
def test_a_mounts_listing_has_each_point_that_stays_once(crowd: Crowd, tmp_path: Path) -> None:
    going, staying = crowd.points[: GOING // 2], crowd.points[GOING:]
    listed: list[str] = []
    with serving(crowd.path, tmp_path / "mnt", "--workers=2") as server:
        folder = server.root / "vm"
        with coming_and_going(crowd, going) as has_begun, os.scandir(folder) as entries:
            listed.append(next(entries).name)
            assert has_begun.wait(60)
            listed += (entry.name for entry in entries)

    assert len(listed) == len(set(listed))
    assert {manifest.name for manifest in staying} <= set(listed)


def test_list_has_each_point_that_stays_once(crowd: Crowd) -> None:
    going, staying = crowd.points[GOING // 2 : GOING], crowd.points[GOING:]
    command = [sys.executable, "-m", "cbtfs", f"--repo={crowd.path}", "list", "--json"]
    with coming_and_going(crowd, going) as has_begun:
        assert has_begun.wait(60)
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)

    listed = [point["id"] for point in json.loads(done.stdout)["points"]]
    assert len(listed) == len(set(listed))
    assert {manifest.point for manifest in staying} <= set(listed)
