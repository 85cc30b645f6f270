"""A file for another program: whole at every moment, readable, its owner's as before."""

import os
import stat
from pathlib import Path

import pytest

from cbtfs.cli.report.textfile import check_writable, replace_text
from cbtfs.errors import CbtfsError, UsageError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_can_be_read_by_all_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        replace_text(tmp_path / "a.prom", "x 1\n")
    finally:
        os.umask(before)

    assert (tmp_path / "a.prom").read_text() == "x 1\n"
    assert mode(tmp_path / "a.prom") == 0o644
    assert os.listdir(tmp_path) == ["a.prom"]


def test_mode_and_owner_stay(tmp_path: Path) -> None:
    file = tmp_path / "a.prom"
    file.write_text("old")
    file.chmod(0o640)
    os.chown(file, 1234, 4321)
    replace_text(file, "new")

    assert (mode(file), file.stat().st_uid, file.stat().st_gid) == (0o640, 1234, 4321)


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "a.prom"
    file.write_text("old")
    with file.open() as opened:
        replace_text(file, "new, and longer")

        assert opened.read() == "old"
    assert file.read_text() == "new, and longer"


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "a.prom").symlink_to("victim")
    replace_text(tmp_path / "a.prom", "new")

    assert (tmp_path / "victim").read_text() == "keep"
    assert not (tmp_path / "a.prom").is_symlink()
    assert mode(tmp_path / "a.prom") == 0o644


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.prom").mkdir()
    with pytest.raises(CbtfsError, match="cannot write"):
        replace_text(tmp_path / "a.prom", "x")

    assert os.listdir(tmp_path) == ["a.prom"]


def test_it_is_known_before_that_a_file_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a directory"):
        check_writable(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        check_writable(tmp_path / "none" / "a.prom")
    check_writable(tmp_path / "a.prom")
