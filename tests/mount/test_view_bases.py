"""Inode bases of views: apart from all others, and found without a search for known ones."""

import random
from typing import cast

import pytest

from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.inodes import (
    BY_ID_BASE,
    FIRST_BASE,
    ROOT,
    STATUS_BASE,
    Directory,
    base_in,
    inode_base_of,
    inode_of,
)
from cbtfs.mount.view_bases import ViewBases

pytestmark = pytest.mark.mounts


def test_the_bases_of_two_points_never_meet() -> None:
    """The bases that are taken are those of the views of an earlier point, not its own."""
    source = random.Random(4)
    for _ in range(200):
        identity = f"{source.getrandbits(128):032x}"
        base = inode_base_of(identity)
        for directory in Directory:
            other = inode_base_of(identity, {base_in(base, directory)})

            views = {base_in(base, kind) for kind in Directory}
            assert views.isdisjoint(base_in(other, kind) for kind in Directory)
            assert min(views) >= FIRST_BASE
            assert base_in(base_in(base, directory), directory) == base


def test_numbers_of_the_root_and_of_status_need_no_search() -> None:
    """Every path begins at the root; a search would look at each point."""
    bases = ViewBases(cast(FileSystem, None))

    for inode in (ROOT, inode_of(STATUS_BASE), inode_of(BY_ID_BASE)):
        assert bases.view(inode) is None
