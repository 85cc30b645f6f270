"""The configuration: file, then environment; what is not understood is refused."""

from pathlib import Path

import pytest

from cbtfs.config import Config, load_config
from cbtfs.errors import UsageError


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert load_config(None, {"HOME": str(tmp_path)}) == Config()


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HOME": "{}"}, ".config/cbtfs/config.toml"),
        ({"HOME": "/nowhere", "XDG_CONFIG_HOME": "{}"}, "cbtfs/config.toml"),
        ({"HOME": "/nowhere", "CBTFS_CONFIG": "{}/mine.toml"}, "mine.toml"),
    ],
)
def test_the_file_is_found(tmp_path: Path, environment: dict[str, str], place: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('repo = "/srv/backup"')

    found = load_config(None, {name: text.format(tmp_path) for name, text in environment.items()})

    assert found == Config(repo=Path("/srv/backup"))


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('repo = "/srv/backup"')

    assert load_config(file, {"CBTFS_REPO": "/other"}) == Config(repo=Path("/other"))
    assert load_config(file, {"CBTFS_REPO": ""}) == Config(repo=Path("/srv/backup"))


def test_a_relative_repository_is_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('repo = "backup"')

    assert load_config(file, {}) == Config(repo=tmp_path / "backup")


@pytest.mark.parametrize(
    "text", ["repos = '/srv'", "repo = 1", "repo = ''", "repo", "repo = '~nobody-here/x'", "\x00"]
)
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)

    with pytest.raises(UsageError):
        load_config(file, {})


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_config(tmp_path / "none.toml", {})
