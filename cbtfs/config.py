"""Configuration from a TOML file and the environment; docs/configuration.md describes the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from cbtfs.core.units import parse_size
from cbtfs.errors import UsageError

REPO_VARIABLE: Final = "CBTFS_REPO"
FILE_VARIABLE: Final = "CBTFS_CONFIG"
NOT_IN_JOBS: Final = ("run", "mount", "umount", "demo")
"""Commands that cannot be steps of a job: they start other programs or serve until they end."""

Table = TypeVar("Table")

_MAX_BYTES: Final = 1 << 20
_TOP: Final = ("repo", "keys", "bucket", "server", "defaults", "job")
_KEYS: Final = ("key-file", "passphrase-file", "command")
_BUCKET: Final = ("endpoint", "region", "tier-size")
_SERVER: Final = ("address", "user", "password-file", "ca-file", "thumbprint")

DEFAULT_KEYS: Final[Mapping[str, type]] = {
    "server": str,
    "time-zone": str,
    "lock-wait": str,
    "jobs": int,
    "per-host": int,
    "per-datastore": int,
    "max-snapshot-age": str,
    "transport": str,
    "nbd-uri": str,
    "vddk-libdir": Path,
    "vddk-modes": str,
    "nfc-mode": str,
    "nfc-require-sha256": bool,
    "level": int,
    "threads": int,
    "audit": str,
    "allocation": str,
    "prove": str,
}
"""Options that [defaults] and jobs may set, with the type of the value. An option that overwrites
or removes something is none of them."""


@dataclass(frozen=True, slots=True)
class Server:
    """A table `[server.NAME]`: a vCenter or ESXi host, and the login."""

    address: str
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    thumbprint: str | None = None


@dataclass(frozen=True, slots=True)
class KeySources:
    """The table `[keys]`: sources of the keys of encrypted repositories."""

    key_files: tuple[Path, ...] = ()
    """Key files, recovery sheets or age identities."""
    passphrase_files: tuple[Path, ...] = ()
    command: str | None = None


@dataclass(frozen=True, slots=True)
class BucketOptions:
    """The table `[bucket]`: the server of repositories in buckets, and the local copies."""

    endpoint: str | None = None
    region: str | None = None
    tier_size: str | None = None
    """Size of the local copies, e.g. 200G."""


@dataclass(frozen=True, slots=True)
class Job:
    """A table `[job.NAME]`: commands of cbtfs that `cbtfs run NAME` runs in order."""

    steps: tuple[tuple[str, ...], ...]
    """Arguments of each command."""
    repo: Path | None = None
    defaults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """Settings that apply to every command."""

    repo: Path | None = None
    """Repository directory; a relative path in a file is relative to that file."""
    servers: Mapping[str, Server] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Values of options by parameter name, e.g. `lock_wait`, as text."""
    jobs: Mapping[str, Job] = field(default_factory=dict)
    keys: KeySources = field(default_factory=KeySources)
    file: Path | None = None
    """The file that was read; None if there is none."""
    bucket: BucketOptions = field(default_factory=BucketOptions)


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
        with file.open("rb") as opened:
            facts = os.fstat(opened.fileno())
            data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError("it is larger than 1 MiB")
        import tomllib

        document = tomllib.loads(data.decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as exc:
        if must_exist:
            raise UsageError(
                f"cannot read the configuration {file}: no such file; check --config, CBTFS_CONFIG"
            ) from exc
        return Config()
    except (OSError, ValueError, RecursionError) as exc:
        raise UsageError(f"cannot read the configuration {file}: {exc}") from exc
    if document.keys() - {"repo"}:
        _require_owner(file, facts)
    return _Reader(file).config(document)


def _require_owner(file: Path, facts: os.stat_result) -> None:
    """Raise UsageError if somebody else can change a file that names secrets or commands."""
    import shlex

    name = shlex.quote(str(file))
    if facts.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"the configuration {file} belongs to another user (uid {facts.st_uid}): it names "
            f"password files or commands; run 'chown {_user_name()} {name}' as root"
        )
    if stat.S_ISREG(facts.st_mode) and facts.st_mode & 0o022:
        raise UsageError(f"others may write to the configuration {file}: run 'chmod go-w {name}'")


def _user_name() -> str:
    """Return the name of the user of this process, or its number if it has no name."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


class _Reader:
    """Validates the tables of one file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def config(self, document: Mapping[str, Any]) -> Config:
        self._refuse_unknown("", document, _TOP)
        defaults = self._table("defaults", document.get("defaults", {}))
        self._refuse_unknown("defaults", defaults, ("repo", *DEFAULT_KEYS))
        repo = self._repository("repo", document.get("repo"))
        if "repo" in defaults:
            if repo is not None:
                raise self._error("repo", "it is given twice, also in [defaults]; remove one")
            repo = self._repository("defaults.repo", defaults["repo"])
        return Config(
            repo,
            self._tables("server", document, self._server),
            self._values("defaults", defaults),
            self._tables("job", document, self._job),
            self._keys("keys", self._table("keys", document.get("keys", {}))),
            self._file,
            self._bucket("bucket", self._table("bucket", document.get("bucket", {}))),
        )

    def _tables(
        self,
        kind: str,
        document: Mapping[str, Any],
        read: Callable[[str, Mapping[str, Any]], Table],
    ) -> dict[str, Table]:
        tables = self._table(kind, document.get(kind, {}))
        return {
            name: read(f"{kind}.{name}", self._table(f"{kind}.{name}", table))
            for name, table in tables.items()
        }

    def _server(self, where: str, table: Mapping[str, Any]) -> Server:
        if "password" in table:
            raise self._error(
                f"{where}.password",
                "a password in the configuration is not supported; write it to a file with mode "
                "600, and use password-file",
            )
        self._refuse_unknown(where, table, _SERVER)
        if "ca-file" in table and "thumbprint" in table:
            raise self._error(where, "ca-file and thumbprint are mutually exclusive; give one")
        address = self._text(f"{where}.address", table.get("address"))
        if address is None:
            raise self._error(where, 'address is missing; use e.g. address = "vc1.example"')
        return Server(
            address,
            self._text(f"{where}.user", table.get("user")),
            self._folder(f"{where}.password-file", table.get("password-file")),
            self._folder(f"{where}.ca-file", table.get("ca-file")),
            self._text(f"{where}.thumbprint", table.get("thumbprint")),
        )

    def _keys(self, where: str, table: Mapping[str, Any]) -> KeySources:
        if "passphrase" in table:
            raise self._error(
                f"{where}.passphrase",
                "a passphrase in the configuration is not supported; write it to a file with mode "
                "600, and use passphrase-file",
            )
        self._refuse_unknown(where, table, _KEYS)
        return KeySources(
            self._files(f"{where}.key-file", table.get("key-file")),
            self._files(f"{where}.passphrase-file", table.get("passphrase-file")),
            self._text(f"{where}.command", table.get("command")),
        )

    def _bucket(self, where: str, table: Mapping[str, Any]) -> BucketOptions:
        self._refuse_unknown(where, table, _BUCKET)
        size = self._text(f"{where}.tier-size", table.get("tier-size"))
        if size is not None:
            try:
                parse_size(size)
            except ValueError as exc:
                raise self._error(f"{where}.tier-size", f"invalid size {exc}") from exc
        return BucketOptions(
            self._text(f"{where}.endpoint", table.get("endpoint")),
            self._text(f"{where}.region", table.get("region")),
            size,
        )

    def _files(self, where: str, value: object) -> tuple[Path, ...]:
        """Return one path, or those of an array."""
        values = value if isinstance(value, list) else [value]
        files = (self._folder(where, item) for item in values if value is not None)
        return tuple(file for file in files if file is not None)

    def _job(self, where: str, table: Mapping[str, Any]) -> Job:
        self._refuse_unknown(where, table, ("steps", "repo", *DEFAULT_KEYS))
        steps = table.get("steps")
        if not isinstance(steps, list) or not steps:
            raise self._error(
                f"{where}.steps", 'use an array of commands such as ["prune --max-unused 5%"]'
            )
        return Job(
            tuple(self._step(f"{where}.steps", step) for step in steps),
            self._repository(f"{where}.repo", table.get("repo")),
            self._values(where, table),
        )

    def _step(self, where: str, step: object) -> tuple[str, ...]:
        import shlex

        text = self._text(where, step) or ""
        try:
            arguments = tuple(shlex.split(text))
        except ValueError as exc:
            raise self._error(where, f"cannot split {text!r}: {exc}") from exc
        if not arguments or arguments[0].startswith("-"):
            raise self._error(where, f"{text!r} does not start with a command of cbtfs")
        if arguments[0] in NOT_IN_JOBS:
            raise self._error(where, f"'{arguments[0]}' cannot be a step of a job")
        return arguments

    def _values(self, where: str, table: Mapping[str, Any]) -> dict[str, str]:
        """Return the values of options in a table, by parameter name."""
        values = {}
        for key, kind in DEFAULT_KEYS.items():
            value = table.get(key)
            if value is None:
                continue
            if kind is Path:
                text = str(self._folder(f"{where}.{key}", value))
            elif kind is int:
                if not isinstance(value, int) or isinstance(value, bool):
                    raise self._error(f"{where}.{key}", "it is not an integer")
                text = str(value)
            elif kind is bool:
                if not isinstance(value, bool):
                    raise self._error(f"{where}.{key}", "it is neither true nor false")
                text = str(value).lower()
            else:
                text = str(self._text(f"{where}.{key}", value))
            values[key.replace("-", "_")] = text
        return values

    def _table(self, where: str, value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._error(where, f"it is not a table; use [{where}]")
        return value

    def _refuse_unknown(self, where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
        unknown = sorted(table.keys() - set(known))
        if unknown:
            place = f" in [{where}]" if where else ""
            raise UsageError(
                f"{self._file}: unknown key {unknown[0]!r}{place}; use {', '.join(known)}", known
            )

    def _text(self, where: str, value: object) -> str | None:
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise self._error(where, "it is not a string with content")
        return value

    def _repository(self, where: str, value: object) -> Path | None:
        """Return the path of a repository; the address of a bucket stays as it is."""
        if isinstance(value, str) and value.startswith("s3://"):
            return Path(value)
        return self._folder(where, value)

    def _folder(self, where: str, value: object) -> Path | None:
        if value is None:
            return None
        if not isinstance(value, str) or not value or "\0" in value:
            raise self._error(where, 'it is not a path; use a string such as "/srv/backup"')
        try:
            return self._file.parent / Path(value).expanduser()
        except RuntimeError as exc:
            raise self._error(where, str(exc)) from exc

    def _error(self, where: str, why: str) -> UsageError:
        return UsageError(f"{self._file}: {where}: {why}")
