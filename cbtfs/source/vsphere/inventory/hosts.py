"""The ESXi hosts of VMs."""

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
    """The state of a host, as far as the user may see it."""

    name: str | None
    """The name in the inventory, by which VMware's library connects to the host."""
    connection: str
    is_in_maintenance: bool


def load_hosts(session: Session, ids: Collection[str]) -> dict[str, HostState]:
    """Return the states of hosts by managed object id, in few calls; deleted hosts are absent."""
    stub = session.content.rootFolder._stub
    hosts = [vim.HostSystem(identity, stub) for identity in sorted(ids)]
    states = {}
    for host in retrieve_each(session, hosts, [properties(vim.HostSystem, *_PATHS)]):
        name = host.values.get("name")
        states[host.id] = HostState(
            None if name is None else str(name),
            str(host.values.get("runtime.connectionState", "unknown")),
            bool(host.values.get("runtime.inMaintenanceMode")),
        )
    return states
