"""The ESXi hosts that machines are on."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from pyVmomi import vim

from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.properties import properties, retrieve_each

_PATHS: Final = (
    "name",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
)


@dataclass(frozen=True, slots=True)
class HostState:
    """A host, as far as the user may see it."""

    name: str | None
    """As the server knows it, and as VMware's library is told to reach it."""
    connection: str
    is_in_maintenance: bool


def load_hosts(session: Session, ids: Collection[str]) -> dict[str, HostState]:
    """The hosts of those managed object ids, by few calls; none that is gone."""
    stub = session.content.rootFolder._stub
    hosts = [vim.HostSystem(each, stub) for each in sorted(ids)]
    states = {}
    for found in retrieve_each(session, hosts, [properties(vim.HostSystem, *_PATHS)]):
        name = found.values.get("name")
        states[found.id] = HostState(
            None if name is None else str(name),
            str(found.values.get("runtime.connectionState", "unknown")),
            bool(found.values.get("runtime.inMaintenanceMode")),
        )
    return states
