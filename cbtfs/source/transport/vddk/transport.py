"""The vddk transport: whether it is usable, and its readers."""

from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.base import DiskReader, TransportDisk
from cbtfs.source.transport.login import VddkLogin
from cbtfs.source.transport.nfc_buffers import NfcHosts
from cbtfs.source.transport.vddk.access import access_for
from cbtfs.source.transport.vddk.library import VERSIONS, find_library
from cbtfs.source.transport.vddk.login import start_child
from cbtfs.source.transport.vddk.reader import VddkReader
from cbtfs.source.vsphere.connect.role import Use


class VddkTransport:
    """Reads disks with VMware's library, each in a child process that it starts and ends."""

    name = "vddk"

    def __init__(self, login: VddkLogin, hosts: NfcHosts | None = None) -> None:
        self._login = login
        self._hosts = hosts or NfcHosts()
        self._refusal: str | None = None
        self._is_probed = False
        self.access = access_for(login)

    @property
    def privileges(self) -> frozenset[Use]:
        return frozenset({"vddk"} if self.access is None else {"vddk", "hold"})

    def connections(self) -> int:
        return 1 if self._usability() is None else 0

    def refusal(self, disk: TransportDisk) -> str | None:
        return self._usability()

    def _usability(self) -> str | None:
        if not self._is_probed:
            self._refusal = self._probe()
            self._is_probed = True
        return self._refusal

    def _probe(self) -> str | None:
        """Return why no child can load the library; None if one can."""
        if find_library(self._login.libdir) is None:
            return (
                f"no libvixDiskLib.so of VDDK {VERSIONS} in {self._login.libdir} or its lib64: "
                "unpack VMware's VDDK there, or give its directory with --vddk-libdir"
            )
        try:
            start_child(self._login).close()
        except SourceUnavailable as exc:
            return f"cannot use the library in {self._login.libdir}: {exc}"
        return None

    def open(self, disk: TransportDisk) -> DiskReader:
        return VddkReader(self._login, disk, self._hosts.of(disk.host))
