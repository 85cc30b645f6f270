"""The transport `nfc`: reads the disks of a VM from its host, without VMware's library."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from cbtfs.core.extent import Extent
from cbtfs.core.names import printable
from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.base import Stopped
from cbtfs.source.transport.base import TransportDisk
from cbtfs.source.transport.nfc.disk import NfcAccess, NfcDisk
from cbtfs.source.transport.nfc.failures import ConnectionLost
from cbtfs.source.transport.nfc.host import HostFacts, introduce
from cbtfs.source.transport.nfc.lines import AuthdRefused
from cbtfs.source.transport.nfc.options import NfcOptions
from cbtfs.source.transport.nfc.ticket import TicketOffice
from cbtfs.source.transport.nfc.window import HostWindows
from cbtfs.source.transport.nfc.wire import SECTOR
from cbtfs.source.transport.web import Web
from cbtfs.source.vsphere.connect.role import Use

log = logging.getLogger(__name__)

_WINDOWS: Final = HostWindows()
"""The limits of the hosts hold for the whole process."""
_PROBES: Final = 2
"""Number of attempts to reach a host before another transport is chosen."""


class NfcTransport:
    """Reads disks by NFC from the hosts that the server names in tickets."""

    name = "nfc"
    access = None
    privileges: frozenset[Use] = frozenset({"nfc"})

    def __init__(
        self,
        web: Web,
        options: NfcOptions | None = None,
        windows: HostWindows | None = None,
        *,
        probes_each_vm: bool = True,
    ) -> None:
        """*windows* limit the requests to each host; the default is common to the process.

        Without *probes_each_vm*, refusal() tries one VM of each host: `doctor` examines many.
        """
        self._access = NfcAccess(
            TicketOffice(web),
            options or NfcOptions(),
            windows or _WINDOWS,
            tuple(sorted((*web.pauses, *web.busy))),
            self._note,
            web.sleep,
        )
        self._probes_each_vm = probes_each_vm
        self._lock = threading.Lock()
        self._refusals: dict[str, str | None] = {}
        """Why a VM cannot be read, by its managed object id or that of its host."""
        self._unreachable: dict[str, str] = {}
        """Why a host cannot be reached, by its address."""
        self._probed: set[tuple[str, str]] = set()
        """VMs and snapshots of which one disk was read."""
        self._noted: set[str] = set()

    def connections(self) -> int:
        return 1

    def refusal(self, disk: TransportDisk) -> str | None:
        """Get a ticket and negotiate with the host, once per VM; return why that fails.

        So a set-up whose user lacks the privilege, or that cannot reach port 902 of the hosts,
        continues to use another transport.
        """
        is_by_host = disk.host is not None and not self._probes_each_vm
        key = str(disk.host) if is_by_host else disk.vm
        with self._lock:
            if key in self._refusals:
                return self._refusals[key]
        why = self._why_not(disk.vm)
        with self._lock:
            self._refusals[key] = why
        return why

    def _why_not(self, vm: str) -> str | None:
        """Return why the disks of a VM cannot be read; None if its host accepts a ticket."""
        why = ""
        for pause in self._few_pauses():
            host = None
            try:
                ticket = self._access.tickets.ticket(vm)
                host = ticket.host
                if host in self._unreachable:
                    return self._unreachable[host]
                introduced = introduce(ticket, self._access.options)
                with suppress(ConnectionLost):
                    introduced.end()
                self._note(introduced.facts)
            except (ConnectionLost, AuthdRefused) as exc:
                why = str(exc)
                log.info("cannot reach the host of %s: %s: retrying", vm, why)
                self._access.sleep(pause)
            except Stopped:
                raise
            except (SourceUnavailable, AccessDenied) as exc:
                return str(exc)
            else:
                return None
        if host is not None:
            self._unreachable[host] = why
        return why

    def _few_pauses(self) -> tuple[float, ...]:
        return (*self._access.pauses[: _PROBES - 1], 0.0)

    def probe(self, disk: TransportDisk) -> str | None:
        """Read the first sector of one disk of each snapshot: the host may refuse to open it."""
        key = (disk.vm, disk.snapshot)
        if not disk.size or key in self._probed:
            return None
        try:
            reader = NfcDisk(replace(self._access, pauses=self._few_pauses()[:-1]), disk)
            try:
                reader.read(Extent(0, min(SECTOR, disk.size)))
            finally:
                reader.close()
        except Stopped:
            raise
        except SourceUnavailable as exc:
            return str(exc)
        self._probed.add(key)
        return None

    def open(self, disk: TransportDisk) -> NfcDisk:
        return NfcDisk(self._access, disk)

    def _note(self, facts: HostFacts) -> None:
        """Log, once per host, how far it is trusted."""
        with self._lock:
            if facts.host in self._noted:
                return
            self._noted.add(facts.host)
        host = printable(facts.host)
        if facts.pinned_by == ("sha1",):
            log.warning(
                "%s is identified only by the SHA-1 of its certificate, because it does not offer "
                "SHA-256 (--nfc-require-sha256 refuses that)",
                host,
            )
        if facts.tls_version is None:
            log.warning("the data of disks travels from %s unencrypted (--nfc-mode clear)", host)


@contextmanager
def opened_by_nfc(
    web: Web, disk: TransportDisk, options: NfcOptions | None = None
) -> Iterator[NfcDisk]:
    """Open one disk of a VM by NFC and close it at the end.

    *web* is `Session.web()`. Of *disk*, NFC needs `vm`, `path`, `size` and `label`; without a
    snapshot the VM must be off. In the block, `read(Extent(start, length))` returns exactly those
    bytes (any alignment, from several threads), `allocated()` the allocated extents,
    `database(key)` a text of the disk's database, and `facts` what the host showed of itself,
    without secrets.

    The caller confirms after the last read that the snapshot still exists, or that the VM is still
    off: a host can return the bytes of another moment without an error.

    Raises:
        SourceUnavailable: the disk cannot be opened or read.
        AccessDenied: the user lacks the privilege for a ticket.
    """
    reader = NfcTransport(web, options).open(disk)
    try:
        yield reader
    finally:
        reader.close()
