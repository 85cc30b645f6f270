"""One S3 server for all tests of a process, and its buckets."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from cbtfs.store.backend.aws import S3Access, s3_access
from cbtfs.store.backend.bucket import Bucket, BucketUrl, Patience
from cbtfs.store.backend.objects import Objects
from tools.s3.servers import BUCKET, Server, seaweed

_numbers = itertools.count()
QUICK = Patience(connect=5, request=30, repeat=60, first_delay=0.01, longest_delay=0.05)
"""Tests do not wait long between attempts."""


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a SeaweedFS server, started at its first use."""
    with ExitStack() as stack:
        yield stack.enter_context(seaweed(tmp_path_factory.mktemp("seaweed") / "data"))


def new_url() -> BucketUrl:
    """Return the address of an empty prefix."""
    return BucketUrl(BUCKET, f"tests/{next(_numbers)}")


def access_of(server: Server, endpoint: str | None = None) -> S3Access:
    """Return the access to *server*, maybe through a proxy at *endpoint*."""
    environment = {**server.environment, "HOME": "/nonexistent"}
    if endpoint is not None:
        environment["AWS_ENDPOINT_URL"] = endpoint
    return s3_access(environment)


def objects_of(server: Server, endpoint: str | None = None) -> Objects:
    """Return an empty backend in a bucket of *server*."""
    return Objects(Bucket(new_url(), access_of(server, endpoint), QUICK), "points")
