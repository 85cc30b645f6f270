"""Cost of forget and prune per point, measured as the number of decoded manifests."""

import json
from pathlib import Path
from typing import Any

import pytest

from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.store.repository import writing
from tests.ingest.fake_disks import disk_of, ingest_into
from tests.make_points import BLOCK, new_repository

POINTS = 6
FORGOTTEN = 4


def test_a_manifest_is_decoded_once_to_be_forgotten_and_once_to_be_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = new_repository(tmp_path / "repository")
    disk = disk_of(b"x" * BLOCK)
    with writing(path) as repository:
        points = []
        for number in range(POINTS):
            disk.write(0, bytes([number + 1]) * BLOCK)
            points.append(ingest_into(repository, {"A": disk.take_snapshot()}).point)
    decoded = list[Any]()
    loads = json.loads

    def counting(text: Any, **named: Any) -> Any:
        if b'"committed"' in text:  # a manifest, and not the format file
            decoded.append(text)
        return loads(text, **named)

    with writing(path) as repository:
        monkeypatch.setattr(json, "loads", counting)
        repository.forget(points[:FORGOTTEN])
        to_forget = len(decoded)
        outcome = prune(repository, PruneLimits())
        to_prune = len(decoded) - to_forget
        monkeypatch.undo()
        with repository.catalog.view() as view:
            (vm,) = view.vms().values()

    assert to_forget == FORGOTTEN
    assert to_prune == POINTS
    assert outcome.points == POINTS - FORGOTTEN
    assert vm.name == "vm"
