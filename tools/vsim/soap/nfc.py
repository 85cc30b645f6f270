"""Methods that the public API does not describe: NfcService and RetrieveInternalContent.

pyVmomi has none of their descriptions. They are kept here and not registered with pyVmomi, whose
registry a client in the same process may share. Source: traffic of VMware's disk library, as
several independent programs observed it.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

from pyVmomi import vim

VIEW: Final = "System.View"  # the privileges for tickets are required on the machine
READ: Final = "VirtualMachine.Provisioning.DiskRandomRead"
WRITE: Final = "VirtualMachine.Provisioning.DiskRandomAccess"
FILES: Final = "VirtualMachine.Provisioning.GetVmFiles"
NAMESPACES: Final = ("urn:vim25", "urn:nfc")
"""A reply has the namespace of its request."""


class NfcServiceKind:
    """The type of the service; it has no properties."""


NfcServiceKind.__name__ = "vim.NfcService"
KINDS: Final = {"NfcService": "vim.NfcService"}
"""Full names of types by WSDL name."""


class RawResult(str):
    """Children of a response element as XML."""

    __slots__ = ()


def _method(kind: Any, result: Any, **parameters: Any) -> Any:
    named = [SimpleNamespace(name=name, type=what) for name, what in parameters.items()]
    info = SimpleNamespace(type=kind, result=result, privId=VIEW, params=named)
    return SimpleNamespace(info=info)


_DISK: Final = {"vm": str, "diskDeviceKey": int, "hostForAccess": str}
METHODS: Final[Mapping[str, Any]] = {
    "NfcGetVmFiles": _method(NfcServiceKind, vim.HostServiceTicket, vm=str),
    "NfcRandomAccessOpenReadonly": _method(NfcServiceKind, vim.HostServiceTicket, **_DISK),
    "NfcRandomAccessOpenDisk": _method(NfcServiceKind, vim.HostServiceTicket, **_DISK),
    "NfcGetServerNfcLibVersion": _method(NfcServiceKind, int, hostForAccess=str),
    "RetrieveInternalContent": _method(vim.ServiceInstance, RawResult),
}
"""Descriptions by WSDL name. Managed objects are passed as their ids."""


class TextValue:
    """Handlers of a parameter whose value is text: an id or a number."""

    def __init__(self, declared: type) -> None:
        self._declared = declared
        self._text = ""

    def StartElementHandler(self, tag: str, attributes: dict[str, str]) -> None:
        """Ignore attributes: the description of the method states the type."""

    def EndElementHandler(self, tag: str) -> None:
        """Keep the text."""

    def CharacterDataHandler(self, data: str) -> None:
        """Add a piece of the text."""
        self._text += data

    def GetResult(self) -> Any:
        """Return the value; raises ValueError for a number that is none."""
        return self._declared(self._text.strip())
