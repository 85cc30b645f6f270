"""Servers that cannot hold a repository are refused by name."""

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from cbtfs.store.backend.base import Content
from cbtfs.store.backend.bucket import Bucket
from cbtfs.store.backend.probe import UnsuitableServer, probe
from tests.object_store import QUICK, access_of, new_url
from tools.s3.servers import Server, rclone_server


def test_a_suitable_server_passes_and_keeps_nothing(s3_server: Server) -> None:
    bucket = Bucket(new_url(), access_of(s3_server), QUICK)

    probe(bucket)

    assert [*bucket.names_after("probe", "")] == []


def test_a_server_that_ignores_conditions_is_refused(tmp_path: Path) -> None:
    with rclone_server(tmp_path) as server:
        bucket = Bucket(new_url(), access_of(server), QUICK)
        with pytest.raises(UnsuitableServer, match="replaces objects that exist") as refused:
            probe(bucket)

    assert str(bucket.url) in str(refused.value)
    assert "\n" not in str(refused.value)


class AllWin(Bucket):
    """A server that only compares when it is not busy."""

    def create(self, key: str, data: bytes) -> None:
        with suppress(FileExistsError):
            return super().create(key, data)
        if not data.isdigit():
            raise FileExistsError(errno.EEXIST, "exists")


class Whole(Bucket):
    """A server that ignores ranges."""

    def get(self, key: str, offset: int = 0, length: int | None = None) -> Content:
        return super().get(key)


class Forgetful(Bucket):
    """A server that lists objects after their deletion."""

    def delete(self, key: str) -> None:
        pass


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (AllWin, "of 8 requests create one object"),
        (Whole, "returns other bytes than those of the range"),
        (Forgetful, "lists an object after its deletion"),
    ],
)
def test_each_property_is_tested(s3_server: Server, server: type[Bucket], why: str) -> None:
    with pytest.raises(UnsuitableServer, match=why):
        probe(server(new_url(), access_of(s3_server), QUICK))
