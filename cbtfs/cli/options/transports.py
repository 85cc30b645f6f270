"""The options that say how the bytes of a VM's disks travel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.source.transport.base import Transport
    from cbtfs.source.vsphere.connect.session import Session

_TRANSPORTS: Final = ("auto", "vddk", "nbd", "datastore")

TransportName = Annotated[
    str, typer.Option(metavar="T", help="How bytes travel: auto, vddk, nbd or datastore.")
]
NbdUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        show_default=False,
        help="An NBD server that has the snapshots: {vm}, {snapshot}, {key} and {path} "
        "are filled in.",
    ),
]
VddkLibdir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="Directory of VMware's VDDK, which has lib64, or the libraries themselves. Else "
        "/opt/vmware-vix-disklib-distrib.",
    ),
]

VddkModes = Annotated[
    str | None,
    typer.Option(
        metavar="M:M",
        show_default=False,
        help="How VDDK may read: san, hotadd, nbdssl, nbd, with colons between. Else it chooses.",
    ),
]


def check_transport(wanted: str) -> None:
    """UsageError if there is no transport of that name."""
    if wanted not in _TRANSPORTS:
        raise UsageError(f"--transport is one of {', '.join(_TRANSPORTS)}")


def transports(
    wanted: str,
    nbd_uri: str | None,
    libdir: Path | None,
    modes: str | None,
    session: Session,
) -> list[Transport]:
    """Those that may be tried, the best first."""
    from cbtfs.source.transport.datastore import DatastoreTransport
    from cbtfs.source.transport.login import VDDK
    from cbtfs.source.transport.nbd import NbdTransport
    from cbtfs.source.transport.nbdkit import NbdkitTransport
    from cbtfs.source.transport.nfc_buffers import NfcHosts
    from cbtfs.source.transport.vddk.transport import VddkTransport

    hosts = NfcHosts()
    found: list[Transport] = []
    if wanted == "vddk" or (wanted == "auto" and nbd_uri is None):
        found.append(VddkTransport(session.vddk_login(libdir or VDDK, modes), hosts))
    if wanted in ("auto", "nbd"):
        if nbd_uri is not None:
            found.append(NbdTransport(nbd_uri))
        else:
            found.append(NbdkitTransport(session.vddk_login(libdir or VDDK), hosts=hosts))
    if wanted in ("auto", "datastore"):
        found.append(DatastoreTransport(session.web()))
    return found
