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
    from cbtfs.source.transport.nfc.options import Mode, NfcOptions
    from cbtfs.source.vsphere.connect.session import Session

_TRANSPORTS: Final = ("auto", "vddk", "nbd", "nfc", "datastore", "httpnfc")

TransportName = Annotated[
    str,
    typer.Option(
        metavar="T",
        help="Transport that reads the disks: auto, vddk, nbd, nfc, datastore or httpnfc.",
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

NfcMode = Annotated[
    str,
    typer.Option(
        metavar="M",
        help="How data comes from a host by the transport nfc: ssl, or clear, which is not "
        "encrypted.",
    ),
]
NfcRequireSha256 = Annotated[
    bool,
    typer.Option(
        "--nfc-require-sha256",
        help="Refuse hosts that the transport nfc can identify only by the SHA-1 of a certificate.",
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
    nfc_mode: NfcMode = "ssl"
    nfc_require_sha256: NfcRequireSha256 = False

    def check(self) -> None:
        """Raise UsageError if there is no transport or mode of that name."""
        self._mode()
        if self.transport not in _TRANSPORTS:
            raise UsageError(
                f"unknown --transport {self.transport!r}: use one of {', '.join(_TRANSPORTS)}"
            )

    def nfc_options(self) -> NfcOptions:
        """Return how hosts are trusted and read by NFC; UsageError for an unknown mode."""
        from cbtfs.source.transport.nfc.options import NfcOptions

        return NfcOptions(mode=self._mode(), requires_sha256=self.nfc_require_sha256)

    def _mode(self) -> Mode:
        from cbtfs.source.transport.nfc.options import MODES

        for mode in MODES:
            if self.nfc_mode == mode:
                return mode
        raise UsageError(f"unknown --nfc-mode {self.nfc_mode!r}: use one of {', '.join(MODES)}")

    def transports(
        self,
        session: Session,
        vddk_modes: str | None = None,
        *,
        probes_each_vm: bool = True,
    ) -> list[Transport]:
        """Return the transports to try, in order of preference.

        Without *probes_each_vm*, the transport nfc tries only one VM of each host.
        """
        from cbtfs.source.nbd import NbdLimits
        from cbtfs.source.transport.datastore import DatastoreTransport
        from cbtfs.source.transport.httpnfc.transport import HttpNfcTransport
        from cbtfs.source.transport.login import VDDK
        from cbtfs.source.transport.nbd import NbdTransport
        from cbtfs.source.transport.nbdkit import NbdkitTransport
        from cbtfs.source.transport.nfc.transport import NfcTransport
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
                transports.append(NbdTransport(self.nbd_uri, NbdLimits(sleep=session.pause)))
            else:
                transports.append(NbdkitTransport(session.vddk_login(libdir), hosts=hosts))
        if wanted in ("auto", "nfc"):
            transports.append(
                NfcTransport(session.web(), self.nfc_options(), probes_each_vm=probes_each_vm)
            )
        if wanted in ("auto", "datastore"):
            transports.append(DatastoreTransport(session.web()))
        if wanted in ("auto", "httpnfc"):
            transports.append(HttpNfcTransport(session.web(), partial(open_lease, session)))
        return transports
