"""The cost of a point does not depend on the number of points: measured by counting calls."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cbtfs.store.repository import writing
from tests.ingest.fake_disks import disk_of, ingest_into
from tests.make_points import BLOCK, new_repository

VMS = 4


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[list[Any]]:
    """Record the first argument of each call of *owner.name*."""
    calls = list[Any]()
    original = getattr(owner, name)

    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments[0] if arguments else None)
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counting)
        yield calls


def test_the_folder_of_points_is_listed_once_for_many_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_of(b"x" * BLOCK)
    with writing(new_repository(tmp_path / "repository")) as repository:
        first = ingest_into(repository, {"A": disk.take_snapshot()})
        with counted(monkeypatch, os, "listdir") as listed:
            for number in range(3):
                disk.write(0, bytes([number]))
                ingest_into(repository, {"A": disk.take_snapshot()})
        repository.forget([first.point])
        known = repository.forgotten().manifests

    assert listed == []
    assert [point.point for point in known] == [first.point]


def test_unchanged_vms_are_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(new_repository(tmp_path / "repository")) as repository:
        for number in range(VMS):
            ingest_into(repository, {"A": disk_of(b"x").take_snapshot()}, vm=f"vm{number}")
        with repository.catalog.view() as view, counted(monkeypatch, json, "loads") as decoded:
            once, again = view.vms(), view.vms()

    assert len(decoded) <= VMS
    assert once == again
    assert len(once) == VMS
