"""`cbtfs init`."""

from pathlib import Path

import pytest

from cbtfs.store.settings import load_settings
from tests.cli.run_cbtfs import process, runner


def test_init_makes_a_repository_with_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new"

    done = runner(path, capsys)("init", "--json")

    settings = load_settings(path)
    assert done.code == 0
    assert done.document == {
        "repository": str(path),
        "id": settings.id,
        "created": settings.created,
        "block_size": 65536,
        "level": 1,
        "related": None,
        "encrypted": False,
        "shared_writers": False,
        "key_slots": [],
    }


def test_a_related_repository_has_the_block_size_of_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner(tmp_path / "first", capsys)("init", "--block-size", "8192", "--level", "5")
    init = runner(tmp_path / "second", capsys)
    words = "init", "--json", f"--related={tmp_path / 'first'}"

    refused = init(*words, "--block-size", "4096")
    done = init(*words)

    assert refused.code == 2
    assert "contradicts --related" in refused.err
    assert (done.document["block_size"], done.document["level"]) == (8192, 5)
    assert done.document["related"] == str(tmp_path / "first")
    assert load_settings(tmp_path / "second").block_size == 8192


def test_only_a_repository_can_be_related(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = runner(tmp_path / "new", capsys)("init", f"--related={tmp_path}")

    assert done.code == 10
    assert not (tmp_path / "new").exists()


def test_init_takes_block_size_and_level(tmp_path: Path) -> None:
    done = process("--repo", tmp_path, "init", "--block-size", "4096", "--level", "19")

    settings = load_settings(tmp_path)
    assert done.code == 0
    assert done.out == f"repository {settings.id} created at {tmp_path}\n"
    assert (settings.block_size, settings.level) == (4096, 19)


@pytest.mark.parametrize(
    "options",
    [("--block-size", "0"), ("--block-size", "65535"), ("--level", "0"), ("--level", "20")],
)
def test_values_that_make_no_sense_are_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    path = tmp_path / "new"

    done = runner(path, capsys)("init", *options)

    assert done.code == 2
    assert not path.exists()


def test_a_folder_in_use_is_2(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = runner(repository, capsys)("init")
    inside = runner(repository.parent, capsys)("init")

    assert (again.code, inside.code) == (2, 2)
