"""Overlays and exports by a user other than root, with fusermount3."""

from pathlib import Path

import pytest

from tests.mount.test_users import home, run

__all__ = ["home"]  # a fixture

pytestmark = pytest.mark.mounts


def test_a_user_writes_to_an_overlay_commits_it_and_exports_a_point(home: Path) -> None:
    done = run(
        home,
        """
        cbtfs overlay create vm lab --dir user/overlays
        cbtfs overlay start lab --dir user/overlays --fork
        cmp --bytes 300000 user/disk.raw user/overlays/lab/root.raw
        printf written | dd of=user/overlays/lab/root.raw conv=notrunc,fsync status=none
        cbtfs overlay stop lab --dir user/overlays
        cbtfs overlay commit lab --dir user/overlays
        cbtfs restore vm+lab root - | head -c 7
        mkdir user/sockets
        cbtfs export vm --socket user/sockets > user/uris &
        timeout 60 sh -c 'until grep -qx ready user/uris; do sleep 0.1; done'
        nbdinfo --size "$(head -n 1 user/uris)"
        ls -l --time-style=+ user/sockets
        pkill -TERM -P $!
        wait $! || true
        ls user/sockets
        """,
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "overlay lab is stopped" in lines
    assert "the point is crash-consistent" in lines
    assert "written300032" in lines  # the size is in whole sectors
    assert lines[-1].startswith("srw-------")  # and nothing is there after the end
