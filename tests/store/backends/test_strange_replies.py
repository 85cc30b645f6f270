"""Replies that are not those of an S3 server, or those of a hostile one, are refused."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cbtfs.errors import AccessDenied
from cbtfs.store.backend.aws import Credentials, S3Access
from cbtfs.store.backend.base import NoReply
from cbtfs.store.backend.bucket import Bucket, BucketUrl, Patience
from cbtfs.store.backend.objects import Objects
from cbtfs.store.backend.tier import Tier
from cbtfs.store.backend.tiered import Tiered

PAGE = b"<html><body>We will be back soon.</body></html>"
EMPTY = (
    b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
)
ODD_NAME = EMPTY.replace(
    b"<IsTruncated>",
    b"<Contents><Key>p/points/a//b</Key><Size>1</Size><ETag>x</ETag>"
    b"<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents><IsTruncated>",
)
HUGE, TAIL = 1 << 50, 128 << 10
FACTS = {
    "ETag": '"x"',
    "Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT",
    "Content-Range": f"bytes {HUGE - TAIL}-{HUGE - 1}/{HUGE}",
}


@contextmanager
def answering(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[Bucket]:
    """Run a server that answers all requests alike; return a client."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing."""

        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        access = S3Access(endpoint, credentials=Credentials("cbtfs", "s3cret"))
        try:
            yield Bucket(BucketUrl("bucket", "p"), access, Patience(repeat=0.05, first_delay=0.01))
        finally:
            server.shutdown()
            thread.join()


def names(bucket: Bucket) -> list[str]:
    return [*bucket.names_after("points", "")]


def test_a_page_of_a_proxy_is_no_empty_listing() -> None:
    with answering(200, PAGE) as bucket:
        with pytest.raises(NoReply, match="not those of an S3 server"):
            names(bucket)
        with pytest.raises(NoReply, match="not those of an S3 server"):
            bucket.sizes("packs")


@pytest.mark.parametrize(
    ("status", "body", "error", "why"),
    [
        (301, b"<Error><Code>PermanentRedirect</Code></Error>", OSError, "check the region"),
        (400, b"<Error><Code>ExpiredToken</Code></Error>", AccessDenied, "ExpiredToken"),
        (403, b"<Error><Code>AccessDenied</Code></Error>", AccessDenied, "AccessDenied"),
        (200, ODD_NAME, OSError, "remove that object"),
    ],
)
def test_a_refusal_is_not_repeated(
    status: int, body: bytes, error: type[Exception], why: str
) -> None:
    calls: tuple[Callable[[Bucket], object], ...] = (names, lambda bucket: bucket.get("a/b"))
    with answering(status, body) as bucket:
        for call in calls[: 1 if status == 200 else 2]:
            with pytest.raises(error, match=why) as refused:
                call(bucket)
            assert not isinstance(refused.value, NoReply)


def test_an_object_that_is_larger_than_any_pack_is_refused(tmp_path: Path) -> None:
    with answering(206, bytes(TAIL), FACTS) as bucket:
        packs = Tiered(Objects(bucket, "packs"), Tier(tmp_path / "tier"))
        with pytest.raises(OSError, match="more than a pack has"):
            packs.open("ab" * 16)

    assert not (tmp_path / "tier").exists()
