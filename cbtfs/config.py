"""Configuration from a TOML file and the environment."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from cbtfs.errors import UsageError

REPO_VARIABLE: Final = "CBTFS_REPO"
FILE_VARIABLE: Final = "CBTFS_CONFIG"


@dataclass(frozen=True, slots=True)
class Config:
    """Settings that apply to every command."""

    repo: Path | None = None
    """Repository directory; a relative path in a file is relative to that file."""


def load_config(file: Path | None, environment: Mapping[str, str]) -> Config:
    """Return the configuration in *file*, overridden by *environment*; UsageError if invalid.

    Without *file*: the file of CBTFS_CONFIG, else cbtfs/config.toml in the configuration directory
    of the XDG Base Directory Specification, which may be absent.
    """
    named = file or _path(environment.get(FILE_VARIABLE))
    config = _load(named or _default_file(environment), must_exist=named is not None)
    repo = _path(environment.get(REPO_VARIABLE))
    return config if repo is None else replace(config, repo=repo)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _default_file(environment: Mapping[str, str]) -> Path:
    home = Path(environment.get("HOME") or "/")
    folder = environment.get("XDG_CONFIG_HOME")
    return Path(folder or home / ".config") / "cbtfs" / "config.toml"


def _load(file: Path, *, must_exist: bool) -> Config:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as exc:
        if must_exist:
            raise UsageError(
                f"cannot read the configuration {file}: no such file; check --config, CBTFS_CONFIG"
            ) from exc
        return Config()
    except (OSError, ValueError) as exc:
        raise UsageError(f"cannot read the configuration {file}: {exc}") from exc
    known = [field.name for field in fields(Config)]
    unknown = sorted(document.keys() - set(known))
    if unknown:
        raise UsageError(f"{file}: unknown key {unknown[0]!r}; use {', '.join(known)}")
    return Config(repo=_folder(file, document, "repo"))


def _folder(file: Path, document: Mapping[str, Any], key: str) -> Path | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(f'{file}: {key!r} is not a path; use a string such as "/srv/backup"')
    try:
        return file.parent / Path(value).expanduser()
    except RuntimeError as exc:
        raise UsageError(f"{file}: {key!r}: {exc}") from exc
