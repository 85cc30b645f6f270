"""Files of guests in an encrypted repository: all commands work, and the index is encrypted."""

import subprocess
from pathlib import Path

import pytest

from cbtfs.core.file_index import MAGIC
from cbtfs.errors import DataCorrupt
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE
from cbtfs.store.file_indexes import FileIndexes
from tests.cli.run_cbtfs import process, runner
from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import add_point

NAME = "a name that no file of the repository may have"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path, content, image = tmp_path / "repo", tmp_path / "content", tmp_path / "image"
    create_encrypted(path, encrypted_settings())
    (content / "home").mkdir(parents=True)
    (content / "home" / NAME).write_text("secret text\n")
    options = ("-t", "ext4", "-O", "^has_journal", "-d", str(content))
    subprocess.run(["mke2fs", "-q", *options, image, "1M"], check=True)
    for size in (1 << 20, (1 << 20) + 4096):
        add_point(path, {"root": image.read_bytes().ljust(size, b"\0")}, vm="web01")
    return path


def test_all_commands_read_an_encrypted_repository(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, place = runner(repository, capsys), f"web01:/home/{NAME}"

    assert NAME in run("files", "ls", "web01:/home").out
    assert run("files", "stat", place).code == 0
    assert run("files", "cat", place).out == "secret text\n"
    assert run("files", "find", "web01:/", "*name*").out.strip() == f"/home/{NAME}"
    assert run("files", "extract", place, tmp_path / "copy").code == 0
    assert (tmp_path / "copy").read_text() == "secret text\n"
    assert run("files", "log", place, "--json").document["versions"][0]["points"] == 2
    assert run("files", "diff", "web01@latest~1", "web01@latest").out == ""
    assert run("files", "index", "--due").code == 0
    assert run("files", "find", "--in", "web01", "*name*", "--json").document[0]["points"] == 2
    assert run("check").code == 0


def test_an_index_is_encrypted_and_bound_to_its_name(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(repository, capsys)
    assert run("files", "index", "--due").code == 0
    one, other = sorted((repository / "indexes").iterdir())
    stored = one.read_bytes()

    assert MAGIC not in stored
    assert NAME.encode() not in stored
    one.write_bytes(other.read_bytes())
    with FileIndexes(repository) as indexes:
        (point,) = (point for point in indexes.ids() if point == one.name)
        with pytest.raises(DataCorrupt):
            indexes.layout(point)


def test_a_process_needs_the_key(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--repo", repository, "files", "cat", f"web01:/home/{NAME}")
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
    refused = process(*words)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(write_key(tmp_path / "key")))

    assert refused.code != 0
    assert "secret text" not in refused.out + refused.err
    assert process(*words).out == "secret text\n"
