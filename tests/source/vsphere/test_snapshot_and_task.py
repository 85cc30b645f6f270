"""A snapshot that is gone once it was made; a task that reports all of its facts at once."""

from types import SimpleNamespace
from typing import Any

import pytest

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.task import _Watch
from cbtfs.source.vsphere.snapshots import snapshot


def test_a_snapshot_that_is_gone_once_it_was_made_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session: Any = object()
    monkeypatch.setattr(snapshot, "make_snapshot", lambda *_: None)
    monkeypatch.setattr(snapshot, "load_snapshots", lambda *_: ())

    with pytest.raises(SourceUnavailable, match="snapshot ours was made and is gone"):
        snapshot.take_snapshot(session, None, "ours", quiesce=False)


def test_a_task_that_reports_all_of_its_facts_at_once_reports_its_result() -> None:
    session: Any = object()
    watch = _Watch(session, None)

    watch._take("info", SimpleNamespace(state="success", error=None, result="snapshot-7"))

    assert watch.facts == {
        "info.state": "success",
        "info.error": None,
        "info.result": "snapshot-7",
    }
