"""Options for the transport that reads the disks of a VM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.source.transport.base import Transport
    from cbtfs.source.vsphere.connect.session import Session

_TRANSPORTS: Final = ("auto", "vddk", "nbd", "datastore", "httpnfc")

TransportName = Annotated[
    str,
    typer.Option(
        metavar="T",
        help="Transport that reads the disks: auto, vddk, nbd, datastore or httpnfc.",
    ),
]
NbdUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        show_default=False,
        help="URI of an NBD server that exports the snapshots, with the placeholders {vm}, "
        "{snapshot}, {key} and {path}.",
    ),
]
VddkLibdir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Directory of VMware's VDDK, or of its libraries (default: "
        "/opt/vmware-vix-disklib-distrib).",
    ),
]

VddkModes = Annotated[
    str | None,
    typer.Option(
        metavar="M:M",
        show_default=False,
        help="Transport modes of VDDK, separated by colons: san, hotadd, nbdssl, nbd (default: "
        "VDDK chooses).",
    ),
]


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """How disks are read."""

    transport: TransportName = "auto"
    nbd_uri: NbdUri = None
    vddk_libdir: VddkLibdir = None

    def check(self) -> None:
        """Raise UsageError if there is no transport of that name."""
        if self.transport not in _TRANSPORTS:
            raise UsageError(
                f"unknown --transport {self.transport!r}: use one of {', '.join(_TRANSPORTS)}"
            )

    def transports(self, session: Session, vddk_modes: str | None = None) -> list[Transport]:
        """Return the transports to try, in order of preference."""
        from cbtfs.source.transport.datastore import DatastoreTransport
        from cbtfs.source.transport.httpnfc.transport import HttpNfcTransport
        from cbtfs.source.transport.login import VDDK
        from cbtfs.source.transport.nbd import NbdTransport
        from cbtfs.source.transport.nbdkit import NbdkitTransport
        from cbtfs.source.transport.nfc_buffers import NfcHosts
        from cbtfs.source.transport.vddk.transport import VddkTransport
        from cbtfs.source.vsphere.snapshots.export_lease import open_lease

        hosts = NfcHosts()
        wanted, libdir = self.transport, self.vddk_libdir or VDDK
        transports: list[Transport] = []
        if wanted == "vddk" or (wanted == "auto" and self.nbd_uri is None):
            transports.append(VddkTransport(session.vddk_login(libdir, vddk_modes), hosts))
        if wanted in ("auto", "nbd"):
            if self.nbd_uri is not None:
                transports.append(NbdTransport(self.nbd_uri))
            else:
                transports.append(NbdkitTransport(session.vddk_login(libdir), hosts=hosts))
        if wanted in ("auto", "datastore"):
            transports.append(DatastoreTransport(session.web()))
        if wanted in ("auto", "httpnfc"):
            transports.append(HttpNfcTransport(session.web(), partial(open_lease, session)))
        return transports
