"""The local state of a repository in a bucket, and the client of the bucket.

Catalog, locks, records of runs, reserve and tier are in a local directory, which all code calls the
repository. Its file remote.json names the bucket. Losing the directory loses no data.
"""

import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cbtfs.core.units import parse_duration, parse_size
from cbtfs.errors import (
    CbtfsError,
    DataCorrupt,
    RepositoryNotFound,
    StoreFailed,
    StoreUnreachable,
    UsageError,
    WrongDirectory,
)
from cbtfs.store.backend.aws import s3_access
from cbtfs.store.backend.base import NoReply
from cbtfs.store.backend.bucket import SCHEME, SETTINGS_KEY, Bucket, BucketUrl, NoBucket, Patience
from cbtfs.store.backend.probe import probe
from cbtfs.store.backend.tier import DEFAULT_LIMIT
from cbtfs.store.files import load_file, make_folder, replace

REMOTE: Final = "remote.json"
KEYS: Final = "keys"
STATE_VARIABLE: Final = "CBTFS_STATE"
TIER_VARIABLE: Final = "CBTFS_TIER_SIZE"
RETRY_VARIABLE: Final = "CBTFS_S3_RETRY"
_MAX_BYTES: Final = 1 << 16
_ADDRESS: Final = re.compile(r"s3:(/+|\Z)", re.IGNORECASE)
"""A path that was an address: two slashes became one, or none at the end."""

_SLOT: Final = re.compile(r"keys/(epoch-)?[0-9a-f]{1,32}\Z")

_lock = threading.Lock()
_buckets: dict[tuple[Path, BucketUrl], Bucket] = {}


def address_in(path: Path) -> BucketUrl | None:
    """Return the address s3://BUCKET/PREFIX that *path* was made of; None for other paths.

    Raises:
        UsageError: the address is invalid.
    """
    text = str(path)
    found = _ADDRESS.match(text)
    if found is None:
        return None
    scheme = SCHEME if text.startswith("s3:") else f"{text[:3]}//"  # parse() refuses S3://
    return BucketUrl.parse(scheme + text[found.end() :])


def state_directory(url: BucketUrl, environment: Mapping[str, str]) -> Path:
    """Return the local directory of a repository in a bucket, which may not exist.

    CBTFS_STATE names its parent; the default is in the state directory of the XDG specification.
    """
    name = hashlib.sha256(str(url).encode()).hexdigest()[:32]
    parent = environment.get(STATE_VARIABLE)
    if parent:
        return Path(parent, name)
    home = Path(environment.get("HOME") or "/")
    state = environment.get("XDG_STATE_HOME")
    return Path(state or home / ".local" / "state") / "cbtfs" / "buckets" / name


def remote_of(repository: Path) -> BucketUrl | None:
    """Return the address of the bucket of a repository; None if it is in a local directory.

    Raises:
        DataCorrupt: the file that names the bucket is damaged.
    """
    file = repository / REMOTE
    try:
        data = load_file(file, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return BucketUrl.parse(str(json.loads(data)["url"]))
    except (ValueError, KeyError, TypeError, RecursionError, UsageError) as exc:
        raise DataCorrupt(
            f"{file} is damaged: remove {repository}; it has no data that is not in the bucket"
        ) from exc


def is_remote(repository: Path) -> bool:
    """Return whether a repository is in a bucket."""
    return remote_of(repository) is not None


def refuse_bucket(repository: Path) -> None:
    """Raise UsageError if a repository is in a bucket, whose key slots are not changed yet."""
    if is_remote(repository):
        raise UsageError(
            "the keys of a repository in a bucket cannot be changed: copy its points into a new "
            "repository that has other keys"
        )


def bucket_of(repository: Path, url: BucketUrl) -> Bucket:
    """Return the client of a repository's bucket, which this process shares.

    Raises:
        UsageError: the configuration of AWS's tools is invalid.
    """
    key = repository, url
    with _lock:
        bucket = _buckets.get(key)
        if bucket is None:
            bucket = _buckets[key] = Bucket(url, s3_access(os.environ), _patience())
        return bucket


def _patience() -> Patience:
    text = os.environ.get(RETRY_VARIABLE)
    if not text:
        return Patience()
    try:
        return Patience(repeat=parse_duration(text))
    except ValueError as exc:
        raise UsageError(f"invalid {RETRY_VARIABLE} {text!r}: use e.g. 30s or 5m") from exc


def tier_bytes() -> int:
    """Return the size of the local tier, from CBTFS_TIER_SIZE.

    Raises:
        UsageError: it is invalid.
    """
    text = os.environ.get(TIER_VARIABLE)
    if not text:
        return DEFAULT_LIMIT
    try:
        return parse_size(text)
    except ValueError as exc:
        raise UsageError(f"invalid {TIER_VARIABLE} {text!r}: use e.g. 200G") from exc


def name_bucket(repository: Path, url: BucketUrl) -> None:
    """Write the file that names the bucket of a repository, in its local directory."""
    repository.mkdir(0o700, parents=True, exist_ok=True)
    repository.chmod(0o700)
    for folder in ("locks", "catalog"):
        make_folder(repository / folder)
    with state_locked(repository):
        replace(repository / REMOTE, json.dumps({"url": str(url)}).encode() + b"\n")


@contextmanager
def state_locked(repository: Path) -> Iterator[None]:
    """Hold a lock of the local directory, which two programs may make at once."""
    fd = os.open(repository, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def attach(repository: Path, url: BucketUrl) -> None:
    """Make the local directory of a repository in a bucket, unless it exists.

    The requests are sent by a child process, so that the caller may fork later.

    Raises:
        RepositoryNotFound: the bucket has no repository at this address.
        AccessDenied: the server refuses the credentials.
        StoreFailed: it does not answer, or refuses a request.
        OSError: the directory cannot be made.
    """
    if (repository / SETTINGS_KEY).exists() and remote_of(repository) == url:
        return
    files = _in_child(url, lambda: _load_files(repository, url))
    name_bucket(repository, url)
    with state_locked(repository):
        if len(files) > 1:
            make_folder(repository / KEYS)
        for name, data in files.items():  # The settings are the last one.
            replace(repository / name, data)


def _load_files(repository: Path, url: BucketUrl) -> dict[str, bytes]:
    """Return key slots and settings by name."""
    bucket = bucket_of(repository, url)
    try:
        settings = bucket.get(SETTINGS_KEY).data
        names = [f"{KEYS}/{name}" for name in bucket.names_after(KEYS, "")]
        keys = {name: bucket.get(name).data for name in names if _SLOT.match(name)}
        return {**keys, SETTINGS_KEY: settings}
    except FileNotFoundError as exc:
        raise RepositoryNotFound(
            f"no repository at {url}: check the address, or create one with init"
        ) from exc


def require_unused(repository: Path, url: BucketUrl) -> None:
    """Verify that a repository can be created at an address, with requests of a child process.

    A caller that makes keys calls this before, so that a refusal leaves no files of keys.

    Raises:
        UsageError: there is a repository, or no bucket, or the server is unsuitable.
        AccessDenied: the server refuses the credentials.
        StoreFailed: it does not answer, or refuses a request.
    """

    def test() -> dict[str, bytes]:
        bucket = bucket_of(repository, url)
        refuse_used(bucket)
        probe(bucket)
        return {}

    try:
        _in_child(url, test)
    except RepositoryNotFound as exc:
        raise UsageError(f"there is no bucket {url.bucket}: create it first") from exc


def refuse_used(bucket: Bucket) -> None:
    """Raise UsageError if a bucket has a repository, or keys that one may be about to use."""
    with suppress(FileNotFoundError):
        bucket.get(SETTINGS_KEY)
        raise UsageError(f"{bucket.url} is already a repository")
    if next(bucket.names_after(KEYS, ""), None) is not None:
        raise UsageError(
            f"{bucket.url} has key slots of an init that did not end: use another prefix, or "
            f"remove {bucket.url}/{KEYS}/ if no init is running"
        )


def drop_keys(repository: Path) -> None:
    """Remove the local key slots of an init that did not end."""
    with suppress(FileNotFoundError):
        for file in (repository / KEYS).iterdir():
            file.unlink()


def put_keys(repository: Path, bucket: Bucket) -> None:
    """Create the objects of the key slots that are in the local directory.

    The first one has the same name for all programs, so that one of several succeeds.

    Raises:
        UsageError: another program creates a repository there.
    """
    files = sorted((repository / KEYS).iterdir(), key=lambda file: not file.name.startswith("ep"))
    for file in files:
        try:
            bucket.create(f"{KEYS}/{file.name}", load_file(file, _MAX_BYTES))
        except FileExistsError:
            raise UsageError(f"another init has made keys at {bucket.url}") from None


def require_same(repository: Path, url: BucketUrl) -> None:
    """Verify that the bucket still has this repository. Only for a process that may not fork.

    Raises:
        WrongDirectory: the bucket has another repository, or none.
    """
    try:
        settings = bucket_of(repository, url).get(SETTINGS_KEY).data
    except FileNotFoundError:
        settings = b""
    if settings != load_file(repository / SETTINGS_KEY, _MAX_BYTES):
        why = "another repository" if settings else "no repository"
        raise WrongDirectory(
            f"{url} has {why}, but its local state {repository} is that of one: if the bucket was "
            "replaced on purpose, remove this directory; it has no data of its own"
        )


def _in_child(url: BucketUrl, call: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
    """Return the result of requests to a bucket in a child process, or raise their error.

    Raises:
        RepositoryNotFound: there is no such bucket.
        StoreUnreachable: the server does not answer.
        StoreFailed: it refuses a request.
    """
    import pickle

    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            result: dict[str, bytes] | Exception
            try:
                result = call()
            except (CbtfsError, OSError) as exc:
                result = exc
            with open(write_end, "wb") as file:
                pickle.dump(result, file)
            code = 0
        finally:
            os._exit(code)
    os.close(write_end)
    with open(read_end, "rb") as file:
        data = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not data:
        raise RuntimeError("the process that reads from the bucket has failed")
    result = pickle.loads(data)
    if isinstance(result, NoBucket):
        raise RepositoryNotFound(f"no repository at {url}: there is no such bucket") from result
    if isinstance(result, OSError):
        kind = StoreUnreachable if isinstance(result, NoReply) else StoreFailed
        raise kind(f"cannot open {url}: {result.strerror}") from result
    if isinstance(result, Exception):
        raise result
    return dict(result)
