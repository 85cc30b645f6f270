"""A snapshot that disappears after its creation; a task that reports its whole info at once."""

from types import SimpleNamespace
from typing import Any

import pytest

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.task import _TaskWatch
from cbtfs.source.vsphere.snapshots import snapshot


def test_a_snapshot_that_disappears_after_its_creation_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session: Any = object()
    monkeypatch.setattr(snapshot, "make_snapshot", lambda *_: None)
    monkeypatch.setattr(snapshot, "load_snapshots", lambda *_: ())

    with pytest.raises(SourceUnavailable, match="snapshot ours disappeared after"):
        snapshot.take_snapshot(session, None, "ours", quiesce=False)


def test_a_task_that_reports_its_whole_info_at_once_has_its_result() -> None:
    session: Any = object()
    watch = _TaskWatch(session, None)

    watch._take("info", SimpleNamespace(state="success", error=None, result="snapshot-7"))

    assert watch.facts == {
        "info.state": "success",
        "info.error": None,
        "info.result": "snapshot-7",
    }
