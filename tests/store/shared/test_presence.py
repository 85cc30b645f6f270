"""Holds with beats, in memory."""

import logging

import pytest

from cbtfs.core.ids import PointId
from cbtfs.core.shared import RunId
from cbtfs.store.identity import new_id
from cbtfs.store.shared import presence as presence_module
from cbtfs.store.shared.looks import Looks, boot_clock
from cbtfs.store.shared.presence import BeatPresence
from tests.store.backends.memory import Memory


def test_a_hold_that_ran_out_is_reported_once_and_never_renewed(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    beats, run = Memory(), new_id()
    looks = Looks(tmp_path_factory.mktemp("state") / "looks.json")
    presence = BeatPresence(Memory(), beats, looks)
    with presence.reading(RunId(run), PointId(run)) as reading:
        assert isinstance(reading, presence_module._Renewal)
        reading.renew()
        assert len(beats.names()) == 1
        later = boot_clock() + presence_module.VALID_SECONDS
        monkeypatch.setattr(presence_module, "boot_clock", lambda: later)

        for _ in range(2):
            reading.renew()

        assert not reading.is_valid
        assert len(beats.names()) == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "was not renewed for 20 hours" in record.getMessage()
