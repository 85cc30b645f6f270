"""Requests to a bucket survive a server that fails, and never report what did not happen."""

import json
import logging
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cbtfs.errors import AccessDenied, DataCorrupt, UsageError
from cbtfs.store.backend.aws import Credentials, S3Access
from cbtfs.store.backend.base import NoReply, Throttled
from cbtfs.store.backend.bucket import Bucket, BucketUrl, Patience
from cbtfs.store.backend.remote import address_in, remote_of, state_directory
from tests.object_store import QUICK, access_of, new_url
from tools.s3.proxy import Fault, Proxy, Script, proxy
from tools.s3.servers import Server

IMPATIENT = Patience(repeat=0.3, first_delay=0.01)
SEEDS = int(os.environ.get("CBTFS_OBJECT_SEEDS", "3"))
CHANGES = (Fault.LOST, Fault.DROPPED, Fault.BUSY, Fault.BUSY_LATE)


def names_after(bucket: Bucket, key: str) -> list[str]:
    return [*bucket.names_after("a", key)]


def bucket_behind(running: Proxy, server: Server, patience: Patience = QUICK) -> Bucket:
    return Bucket(new_url(), access_of(server, running.endpoint), patience)


@pytest.mark.parametrize(
    "text", ["s3://b", "http://b/c", "s3://Big/x", "s3://bb/../x", "s3://bb/a b"]
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid address of a bucket"):
        BucketUrl.parse(text)


@pytest.mark.parametrize(
    "text", ["s3://back/p", "s3://back/p/", "s3://back//p", "s3:///back/p", "s3:/back/./p"]
)
def test_spellings_of_one_address_have_one_local_state(text: str) -> None:
    url = address_in(Path(text))

    assert url == BucketUrl("back", "p")
    assert state_directory(url, {"CBTFS_STATE": "/s"}) == state_directory(
        BucketUrl("back", "p"), {"CBTFS_STATE": "/s"}
    )


@pytest.mark.parametrize("text", ["s3:", "s3://", "S3://back/p", "s3://b", "s3://back/../p"])
def test_an_incomplete_address_is_no_directory(text: str) -> None:
    with pytest.raises(UsageError, match="invalid address of a bucket"):
        address_in(Path(text))


@pytest.mark.parametrize("text", ["/s3:/x", "s3", "s3:x", "./a/s3:/x"])
def test_a_directory_is_no_address(text: str) -> None:
    assert address_in(Path(text)) is None


@pytest.mark.parametrize("url", [5, "s3://back/../p", None, {}])
def test_a_damaged_name_of_the_bucket_is_reported(tmp_path: Path, url: object) -> None:
    (tmp_path / "remote.json").write_text(json.dumps({"url": url}))

    with pytest.raises(DataCorrupt, match=r"remote\.json is damaged"):
        remote_of(tmp_path)


def test_an_address_is_parsed() -> None:
    assert BucketUrl.parse("s3://back-up/vm/one/") == BucketUrl("back-up", "vm/one")
    assert str(BucketUrl.parse("s3://back-up/")) == "s3://back-up"


@pytest.mark.parametrize("fault", CHANGES)
def test_a_repeated_create_recognizes_its_first_attempt(s3_server: Server, fault: Fault) -> None:
    with proxy(s3_server.endpoint, Script(fails={1: fault})) as running:
        bucket = bucket_behind(running, s3_server)
        bucket.create("points/a", b"content")

    assert running.faults == {fault: 1}


@pytest.mark.parametrize("fault", CHANGES)
def test_a_repeated_create_loses_against_another(s3_server: Server, fault: Fault) -> None:
    with proxy(s3_server.endpoint, Script(fails={2: fault})) as running:
        bucket = bucket_behind(running, s3_server)
        bucket.create("points/a", b"first")
        with pytest.raises(FileExistsError):
            bucket.create("points/a", b"second")

        assert bucket.get("points/a").data == b"first"


def test_an_equal_object_of_another_request_is_refused_at_first(s3_server: Server) -> None:
    bucket = Bucket(new_url(), access_of(s3_server), QUICK)
    bucket.create("points/a", b"content")

    with pytest.raises(FileExistsError):
        bucket.create("points/a", b"content")


@pytest.mark.parametrize(("fault", "error"), [(Fault.LOST, NoReply), (Fault.BUSY, Throttled)])
def test_requests_are_repeated_for_a_bounded_time(
    s3_server: Server, fault: Fault, error: type[OSError]
) -> None:
    with proxy(s3_server.endpoint, Script(every=1, faults=(fault,))) as running:
        bucket = bucket_behind(running, s3_server, IMPATIENT)
        requests: list[Callable[[], object]] = [
            partial(bucket.create, "a/b", b""),
            partial(bucket.delete, "a/b"),
            partial(bucket.get, "a/b"),
            partial(bucket.head, "a/b"),
            partial(names_after, bucket, ""),
        ]
        for request in requests:
            with pytest.raises(error):
                request()

    assert running.requests < 40


def test_an_outage_is_logged_once(s3_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    script = Script(every=1, faults=(Fault.DROPPED,))
    with proxy(s3_server.endpoint, script) as running:
        bucket = bucket_behind(running, s3_server, IMPATIENT)
        for _ in range(3):
            with pytest.raises(NoReply):
                bucket.head("a/b")
        before = running.requests
        with pytest.raises(NoReply):
            bucket.head("a/b")
        assert running.requests <= before + 2  # hyper repeats a request on a kept connection
        script.every = 0
        bucket.create("a/b", b"content")

    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.split(" ", 4)[-1] for line in lines] == [
        "does not answer: the connection failed",
        "answers again",
    ]


def test_a_stale_404_is_not_an_absence(s3_server: Server) -> None:
    with proxy(s3_server.endpoint) as running:
        bucket = bucket_behind(running, s3_server)
        bucket.create("a/b", b"content")
        running.script.fails = {
            running.requests + 1: Fault.STALE,
            running.requests + 3: Fault.STALE,
        }

        assert bucket.get("a/b").data == b"content"
        assert bucket.head("a/b").size == 7

    assert running.faults[Fault.STALE] == 2


def test_wrong_credentials_are_reported_without_them(s3_server: Server) -> None:
    access = S3Access(s3_server.endpoint, "us-east-1", Credentials("cbtfs", "s3cret"))

    with pytest.raises(AccessDenied, match="SignatureDoesNotMatch") as refused:
        Bucket(new_url(), access, QUICK).create("a/b", b"")
    assert "s3cret" not in str(refused.value)


def test_an_absent_bucket_is_not_an_absent_object(s3_server: Server) -> None:
    bucket = Bucket(BucketUrl("absent", "x"), access_of(s3_server), QUICK)

    for call in (lambda: bucket.get("a/b"), lambda: [*bucket.names_after("a", "")]):
        with pytest.raises(OSError, match="bucket absent does not exist") as refused:
            call()
        assert not isinstance(refused.value, FileNotFoundError)


def test_a_client_is_not_used_across_a_fork(s3_server: Server) -> None:
    bucket = Bucket(new_url(), access_of(s3_server), QUICK)
    bucket.create("a/b", b"")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            bucket.head("a/b")
        except RuntimeError:
            code = 0
        finally:
            os._exit(code)

    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("seed", range(SEEDS))
def test_faults_lose_nothing(s3_server: Server, seed: int) -> None:
    chance, expected = random.Random(seed), dict[str, bytes]()
    script = Script(every=4, seed=seed, slow=0.01)
    with proxy(s3_server.endpoint, script) as running:
        bucket = bucket_behind(running, s3_server)

        def create() -> None:
            key, data = f"a/{chance.randrange(12):02}", chance.randbytes(chance.randrange(5000))
            try:
                bucket.create(key, data)
            except FileExistsError:
                assert key in expected
            else:
                assert key not in expected
                expected[key] = data

        def delete() -> None:
            key = f"a/{chance.randrange(12):02}"
            bucket.delete(key)
            expected.pop(key, None)

        def read() -> None:
            for key, data in [*expected.items()][:2]:
                start = chance.randrange(len(data) + 1)
                try:
                    assert bucket.get(key, start, 900).data == data[start : start + 900]
                except FileNotFoundError:
                    assert running.faults[Fault.STALE] >= 2

        def list_names() -> None:
            assert [f"a/{name}" for name in bucket.names_after("a", "")] == sorted(expected)

        actions: list[Callable[[], None]] = [create, create, create, delete, read, list_names]
        for _ in range(30):
            chance.choice(actions)()
        script.every = 0
        list_names()
        for key, data in expected.items():
            assert bucket.get(key).data == data

    assert running.faults
