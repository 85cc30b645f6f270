"""Test of an S3 server before a program writes to a bucket.

Some servers accept the condition of a create and ignore it: two programs would both commit. They
are refused here, by name. The probe takes about 20 requests.
"""

import threading
from contextlib import suppress
from typing import Final

from cbtfs.errors import CbtfsError, UsageError
from cbtfs.store.backend.bucket import Bucket
from cbtfs.store.identity import new_id

FOLDER: Final = "probe"
"""Folder of the probe's objects. A probe that was killed leaves them; they are harmless."""
_CREATORS: Final = 8
_CONTENT: Final = bytes(range(256)) * 8


class UnsuitableServer(UsageError):
    """Raised if a server lacks a property that a repository needs."""


def probe(bucket: Bucket) -> None:
    """Test conditional creates, ranges and listings of a server.

    Raises:
        UnsuitableServer: the server fails a test.
        OSError: it does not answer or refuses a request.
        AccessDenied: it refuses the credentials.
    """
    stem = new_id()
    keys = [f"{FOLDER}/{stem}.{number}" for number in range(3)]
    try:
        _test_creates(bucket, keys[0])
        _test_race(bucket, keys[1])
        _test_ranges(bucket, keys[0])
        _test_listing(bucket, keys, stem)
    finally:
        with suppress(OSError, CbtfsError):
            for key in keys:
                bucket.delete(key)


def _refuse(bucket: Bucket, why: str, needs: str) -> UnsuitableServer:
    return UnsuitableServer(
        f"the server of {bucket.url} {why}: cbtfs needs {needs}; use a server that supports it"
    )


def _test_creates(bucket: Bucket, key: str) -> None:
    bucket.create(key, _CONTENT)
    for content in (b"another", _CONTENT):
        with suppress(FileExistsError):
            bucket.create(key, content)
            raise _refuse(bucket, "replaces objects that exist", "creates with If-None-Match")
    if bucket.get(key).data != _CONTENT:
        raise _refuse(bucket, "returns other bytes than were put", "objects that do not change")


def _test_race(bucket: Bucket, key: str) -> None:
    start, winners, failures = threading.Barrier(_CREATORS), list[int](), list[Exception]()

    def create(number: int) -> None:
        start.wait()
        try:
            bucket.create(key, b"%d" % number)
        except FileExistsError:
            return
        except Exception as exc:  # reported by the caller's thread
            failures.append(exc)
        else:
            winners.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(_CREATORS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    if len(winners) != 1 or bucket.get(key).data != b"%d" % winners[0]:
        raise _refuse(
            bucket,
            f"let {len(winners)} of {_CREATORS} requests create one object",
            "creates with If-None-Match of which exactly one succeeds",
        )


def _test_ranges(bucket: Bucket, key: str) -> None:
    needs = "ranges, answered with status 206"
    try:
        parts = bucket.get(key, 300, 500).data, bucket.get_tail(key, 100).data
    except OSError as exc:
        raise _refuse(bucket, f"does not answer a range ({exc.strerror})", needs) from exc
    if parts != (_CONTENT[300:800], _CONTENT[-100:]):
        raise _refuse(bucket, "returns other bytes than those of the range", needs)


def _test_listing(bucket: Bucket, keys: list[str], stem: str) -> None:
    needs = "listings that have every object at once, in order"
    names = [key.removeprefix(f"{FOLDER}/") for key in keys]
    bucket.create(keys[2], b"")
    listed = [*bucket.names_after(FOLDER, "", stem)]
    later = [*bucket.names_after(FOLDER, names[0], stem)]
    if listed != names or later != names[1:]:
        raise _refuse(bucket, "does not list an object after its creation", needs)
    bucket.delete(keys[1])
    if [*bucket.names_after(FOLDER, "", stem)] != [names[0], names[2]]:
        raise _refuse(bucket, "lists an object after its deletion", needs)
