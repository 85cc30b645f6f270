"""A cancelled run does not wait until the pause before a retry is over."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from cbtfs.ingest.inputs import no_progress
from cbtfs.source.base import Stopped
from cbtfs.source.nbd import NbdLimits
from cbtfs.source.transport.base import Transport
from cbtfs.source.transport.nbd import NbdTransport
from cbtfs.source.transport.nfc.options import NfcOptions
from cbtfs.source.vsphere.connect.session import Session
from tests.scenarios.vsphere.site import (
    QUICK,
    Lab,
    MakeTransport,
    by_datastore,
    by_httpnfc,
    by_nfc,
)
from tools.vsim import Simulator

LONG = 600.0
"""Seconds of a pause; the time limit of a test is shorter."""


class CancelAtRetry(logging.Handler):
    """Sets *stop* as soon as a retry is logged, which is before its pause."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__(logging.INFO)
        self._stop = stop

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "retrying" in text or "starts again" in text:
            threading.Timer(0.1, self._stop.set).start()


@pytest.fixture
def stop(caplog: pytest.LogCaptureFixture) -> Iterator[threading.Event]:
    event = threading.Event()
    caplog.set_level(logging.INFO, "cbtfs")
    handler = CancelAtRetry(event)
    logging.getLogger("cbtfs").addHandler(handler)
    yield event
    logging.getLogger("cbtfs").removeHandler(handler)


def patient(lab: Lab, **pauses: Any) -> None:
    lab.retry_policy = replace(QUICK, **pauses)


def by_patient_nbd(sim: Simulator, session: Session) -> Transport:
    limits = NbdLimits(seconds=20.0, pauses=(LONG,), sleep=session.pause)
    return NbdTransport(sim.nbd_uri + "{vm}/{snapshot}/{key}", limits)


def assert_cancelled(lab: Lab, stop: threading.Event) -> None:
    began = time.monotonic()
    with pytest.raises(Stopped):
        lab.ingest(stop=stop, want="full", allow_partial=True)

    assert time.monotonic() - began < LONG / 10
    lab.assert_clean()


@pytest.mark.parametrize(
    "transport", [by_datastore, by_httpnfc, by_patient_nbd], ids=lambda made: made.__name__
)
def test_a_lost_connection_delays_no_cancellation(
    lab: Lab, stop: threading.Event, transport: MakeTransport
) -> None:
    patient(lab, connection=(LONG, LONG))
    lab.make_transport = transport
    lab.sim.do.on_read(action="close", at=2, times=999)
    assert_cancelled(lab, stop)


def break_reads(sim: Simulator) -> None:
    sim.do.on_nfc(point="read", action="reset", at=2, times=999)


def refuse_tickets(sim: Simulator) -> None:
    sim.do.on_call("NfcGetVmFiles", action="status", status=503, at=2, times=999)


def break_the_probe(sim: Simulator) -> None:
    sim.do.on_nfc(point="greeting", action="close", times=999)


@pytest.mark.parametrize("fault", [break_reads, refuse_tickets, break_the_probe])
def test_a_host_that_fails_delays_no_cancellation(
    lab: Lab, stop: threading.Event, fault: Callable[[Simulator], None]
) -> None:
    patient(lab, connection=(LONG, LONG), busy=(LONG,))
    lab.make_transport = by_nfc
    fault(lab.sim)
    assert_cancelled(lab, stop)


def test_a_host_that_is_silent_delays_no_cancellation(lab: Lab) -> None:
    stop = threading.Event()
    lab.make_transport = by_nfc
    lab.sim.do.on_nfc(point="read", action="silence", at=2, times=999)

    def cancel_soon(label: str, size: int) -> Callable[[int], None]:
        threading.Timer(0.5, stop.set).start()
        return no_progress(label, size)

    began = time.monotonic()
    with pytest.raises(Stopped):
        lab.ingest(stop=stop, on_disk=cancel_soon)

    assert time.monotonic() - began < NfcOptions().answer_seconds / 2
    lab.assert_clean()


def test_another_task_of_the_vm_delays_no_cancellation(lab: Lab, stop: threading.Event) -> None:
    patient(lab, busy=(LONG, LONG))
    lab.sim.do.on_call(
        "CreateSnapshot_Task", action="fault", fault="vim.fault.TaskInProgress", times=999
    )
    assert_cancelled(lab, stop)


def test_a_removal_is_retried_after_a_cancellation(lab: Lab, stop: threading.Event) -> None:
    patient(lab, busy=(LONG, 0.0))
    lab.sim.do.on_call(
        "RemoveSnapshot_Task", action="fault", fault="vim.fault.TaskInProgress", times=2
    )
    began = time.monotonic()
    lab.ingest(stop=stop)

    assert stop.is_set()
    assert time.monotonic() - began < LONG / 10
    lab.assert_clean()
    lab.assert_all_true()
