"""Open an export lease of a snapshot (vSphere API reference, ExportSnapshot and HttpNfcLease)."""

import logging
import re
import time
from collections.abc import Mapping
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.transport.httpnfc.download import DeviceUrl
from cbtfs.source.transport.httpnfc.lease import ExportLease
from cbtfs.source.vsphere.connect.faults import ReplyLost, error_of, text_of, translated_faults
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.connect.task_retry import is_transient, wait_before_retry
from cbtfs.source.vsphere.inventory.properties import read

log = logging.getLogger(__name__)

_WHAT: Final = "export the snapshot"
_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two looks at a lease that is not ready."""
_LEAST_TIMEOUT: Final = 1
_DEVICE: Final = re.compile(r"(\w+)Controller(\d{1,3}):(\d{1,3})\Z")
_BUSES: Final = (
    ("NVME", "nvme"),
    ("IDE", "ide"),
    ("AHCI", "sata"),
    ("SATA", "sata"),
    ("SCSI", "scsi"),
    ("LSILOGIC", "scsi"),
    ("BUSLOGIC", "scsi"),
)


def slot_of(key: str) -> str | None:
    """Return the slot of a device of a lease, scsi0:1; None for another kind of device.

    The key of a device ends with its controller: `/vm-42/ParaVirtualSCSIController0:1`.
    """
    match = _DEVICE.search(key)
    if match is None:
        return None
    kind = match[1].upper()
    bus = next((bus for word, bus in _BUSES if word in kind), None)
    return None if bus is None else f"{bus}{int(match[2])}:{int(match[3])}"


def open_lease(session: Session, vm: str, snapshot: str) -> ExportLease:
    """Return a ready lease of the snapshot with that managed object id.

    Raises:
        SourceUnavailable: the server refuses the export, or the lease does not become ready.
        AccessDenied: the user lacks VApp.Export.
        Stopped: the run was cancelled.
    """
    stub = session.content.rootFolder._stub
    lease = _start(session, vim.vm.Snapshot(snapshot, stub))
    opened = _Lease(session, lease)
    try:
        opened.wait_ready()
    except BaseException:
        try:
            opened.end(is_complete=False)
        except CbtfsError as exc:
            log.info("the export lease is not aborted: %s", exc)
        raise
    return opened


def _start(session: Session, snapshot: Any) -> Any:
    """Return a new lease; wait while another operation, or an old lease, blocks the VM."""
    with translated_faults(_WHAT):
        for pause in session.retry_policy.after_a_lease():
            try:
                return session.once(snapshot.ExportSnapshot, _WHAT)
            except ReplyLost as exc:
                # A lease that may exist blocks another one until it times out.
                raise SourceUnavailable(f"{exc}: run again after the lease timed out") from exc
            except vmodl.MethodFault as fault:
                if not is_transient(fault):
                    raise
                wait_before_retry(session, fault, _WHAT, pause)
                if session.is_stopping:
                    raise Stopped(f"{_WHAT}: interrupted") from fault
        return session.once(snapshot.ExportSnapshot, _WHAT)


class _Lease:
    """One HttpNfcLease."""

    def __init__(self, session: Session, lease: Any) -> None:
        self._session = session
        self._lease = lease
        self.devices: Mapping[str, DeviceUrl] = {}
        self.seconds = 0.0

    def wait_ready(self) -> None:
        """Wait until the server has prepared the disks, and read where they are."""
        due = time.monotonic() + self._session.retry_policy.call
        pause = _PAUSE
        while (state := self._state()) == "initializing":
            if self._session.is_stopping:
                raise Stopped(f"{_WHAT}: interrupted")
            if time.monotonic() > due:
                raise SourceUnavailable(
                    f"{_WHAT}: the lease is not ready after "
                    f"{self._session.retry_policy.call:.0f} s: see the tasks of the server"
                )
            self._session.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        info = read(self._session, self._lease, "info").get("info")
        if state != "ready" or info is None:
            raise SourceUnavailable(f"{_WHAT}: the lease is {state}")
        self.devices = _devices(info.deviceUrl or ())
        self.seconds = float(max(info.leaseTimeout or 0, _LEAST_TIMEOUT))

    def _state(self) -> str:
        """Return the state of the lease; raise the error for its fault."""
        values = read(self._session, self._lease, "state", "error")
        fault = values.get("error")
        if fault is not None:
            if isinstance(fault, vmodl.MethodFault):
                raise error_of(fault, _WHAT)
            raise SourceUnavailable(f"{_WHAT}: the lease has failed")
        return str(values.get("state"))

    def report(self, percent: int) -> None:
        what = "keep the export lease alive"
        with translated_faults(what):
            self._session.repeat(lambda: self._lease.HttpNfcLeaseProgress(percent), what)

    def end(self, *, is_complete: bool) -> None:
        what = "end the export lease"
        if is_complete:
            with translated_faults(what):
                self._session.repeat(self._complete, what)
            return
        with translated_faults(what):
            self._session.repeat(lambda: self._lease.HttpNfcLeaseAbort(None), what)

    def _complete(self) -> None:
        """Complete the lease, unless an earlier request did."""
        try:
            self._lease.HttpNfcLeaseProgress(100)
            self._lease.HttpNfcLeaseComplete()
        except (vim.fault.InvalidState, vmodl.fault.ManagedObjectNotFound) as fault:
            log.debug("the lease has ended before: %s", text_of(fault))


def _devices(urls: Any) -> dict[str, DeviceUrl]:
    """Return the disks of a lease by slot; SourceUnavailable if two have the same slot."""
    devices: dict[str, DeviceUrl] = {}
    for url in urls:
        slot = slot_of(str(url.key)) if url.disk else None
        if slot is None:
            log.debug("the lease has a device that is no disk: %s", printable(str(url.key)))
            continue
        if slot in devices:
            raise SourceUnavailable(f"{_WHAT}: the lease has two disks {slot}")
        devices[slot] = DeviceUrl(str(url.url), str(url.sslThumbprint or "") or None)
    return devices
