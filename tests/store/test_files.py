"""Removal of files and directories while readers are active."""

import os
from pathlib import Path

import pytest

from cbtfs.store.files import remove_folder


def test_a_file_that_appears_while_its_directory_is_removed_is_removed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rmdir = tmp_path / "catalog.damaged", os.rmdir
    folder.mkdir()
    late = iter(("lock.mdb", "lock.mdb"))

    def create_first(*args: object, **options: object) -> None:
        name = next(late, None)
        if name is not None:
            (folder / name).touch()
        rmdir(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("shutil.os.rmdir", create_first)

    remove_folder(folder)

    assert not folder.exists()


def test_a_directory_that_never_becomes_empty_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rmdir = tmp_path / "catalog.damaged", os.rmdir
    folder.mkdir()

    def create_first(*args: object, **options: object) -> None:
        (folder / "lock.mdb").touch()
        rmdir(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("shutil.os.rmdir", create_first)
        with pytest.raises(OSError, match="not empty"):
            remove_folder(folder)

    assert folder.exists()
