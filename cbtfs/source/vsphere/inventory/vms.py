"""List the VMs of a server with one PropertyCollector call, and select VMs by name or pattern."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from pyVmomi import vim

from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, SourceUnavailable, UsageError
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.properties import ObjectProperties, properties, retrieve, walk

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_ESCAPES: Final = re.compile(r"%(2f|5c|25)", re.IGNORECASE)
_SHOWN: Final = 8
"""Maximum number of paths in a message."""
_MAX_DEPTH: Final = 250
"""Maximum number of folders above a VM."""


@dataclass(frozen=True, slots=True)
class ListedVm:
    """A VM in the inventory."""

    object: Any
    id: str
    name: str
    path: str
    """Inventory path, such as /DC0/vm/prod/web1, with slashes in names as %2f."""
    datacenter: str
    """Inventory path of its datacenter, without the first slash."""
    instance_uuid: str | None
    is_template: bool

    @property
    def identity(self) -> str:
        """The VM's key in a repository: its instance UUID, or its managed object id."""
        return self.instance_uuid or f"moref:{self.id}"


def list_vms(session: Session) -> list[ListedVm]:
    """Return every VM that the user may see."""
    items = retrieve(
        session,
        session.content.rootFolder,
        [
            properties(vim.Folder, "name", "parent"),
            properties(vim.Datacenter, "name", "parent"),
            properties(vim.VirtualApp, "name", "parentFolder"),
            properties(
                vim.VirtualMachine,
                "name",
                "parent",
                "parentVApp",
                "config.instanceUuid",
                "config.template",
            ),
        ],
        [
            walk("folders", vim.Folder, "childEntity", "folders", "datacenters", "vapps", "inner"),
            walk("datacenters", vim.Datacenter, "vmFolder", "folders"),
            walk("vapps", vim.VirtualApp, "vm"),
            walk("inner", vim.VirtualApp, "resourcePool", "vapps", "inner"),
        ],
    )
    entities = {item.id: item for item in items}
    server = str(session.address)
    return [
        _listed(item, entities, server)
        for item in items
        if isinstance(item.object, vim.VirtualMachine)
    ]


def _listed(
    item: ObjectProperties, entities: Mapping[str, ObjectProperties], server: str
) -> ListedVm:
    name = str(item.values.get("name", ""))
    parts, datacenter = [name], 0
    entity = item
    while (parent := entities.get(_parent_id(entity))) is not None:
        if _parent_id(parent) or isinstance(parent.object, vim.Datacenter):
            parts.append(str(parent.values.get("name", "")))
        if isinstance(parent.object, vim.Datacenter):
            datacenter = len(parts)
        entity = parent
        if len(parts) > _MAX_DEPTH:
            raise SourceUnavailable(
                f"{server} reports more than {_MAX_DEPTH} folders above {printable(name)}, as if a "
                "folder contained itself: check which program answers there"
            )
    parts.reverse()
    return ListedVm(
        item.object,
        item.id,
        unescaped(name),
        "/" + "/".join(parts),
        "/".join(parts[: len(parts) - datacenter + 1]) if datacenter else "",
        item.values.get("config.instanceUuid"),
        bool(item.values.get("config.template", False)),
    )


def _parent_id(entity: ObjectProperties) -> str:
    for path in ("parent", "parentVApp", "parentFolder"):
        parent = entity.values.get(path)
        if parent is not None:
            return str(parent._moId)
    return ""


def unescaped(name: str) -> str:
    """Decode %2f, %5c and %25, which vSphere writes for slash, backslash and percent in names."""
    return _ESCAPES.sub(lambda match: chr(int(match[1], 16)), name)


def _lower_escapes(path: str) -> str:
    """Write escapes in lower case, because clients write %2f or %2F."""
    return _ESCAPES.sub(lambda match: match[0].lower(), path)


def select(vms: Sequence[ListedVm], wanted: str) -> list[ListedVm]:
    """Return the VMs that *wanted* matches: a name, an inventory path, a pattern, or a UUID.

    Names and paths may have the escapes of the API: `team%2fweb` for `team/web`. UsageError if no
    VM matches, or if several VMs have the name; then the message lists them.
    """
    path = wanted if wanted.startswith("/") else f"/{wanted}"
    exact = (
        [vm for vm in vms if vm.name == wanted]
        or [vm for vm in vms if vm.name == unescaped(wanted)]
        or [vm for vm in vms if _lower_escapes(vm.path) == _lower_escapes(path)]
    )
    if not exact and _UUID.match(wanted):
        exact = [vm for vm in vms if (vm.instance_uuid or "").lower() == wanted.lower()]
    if len(exact) > 1:
        raise UsageError(f"VM {printable(wanted)!r} is ambiguous: name one of {_listing(exact)}")
    matches = exact or [
        vm
        for vm in vms
        if not vm.is_template
        and (
            fnmatchcase(vm.name, wanted)
            or fnmatchcase(vm.name, unescaped(wanted))
            or ("/" in wanted and fnmatchcase(vm.path, path))
        )
    ]
    if not matches:
        raise UsageError(f"no VM {printable(wanted)!r} on this server that the user may see")
    return matches


def _listing(vms: Iterable[ListedVm]) -> str:
    paths = sorted(vm.path for vm in vms)
    return ", ".join(map(printable, paths[:_SHOWN])) + (" …" if len(paths) > _SHOWN else "")


@dataclass(frozen=True, slots=True)
class VmSelection:
    """The VMs that several names match, without duplicates, and the names that failed."""

    vms: list[ListedVm]
    refused: list[tuple[str, CbtfsError]]
    """Names without a VM or with several, each with the error."""


def select_all(vms: Sequence[ListedVm], wanted: Iterable[str]) -> VmSelection:
    """Return the VMs that any of *wanted* matches, and the names that failed."""
    selected: dict[str, ListedVm] = {}
    refused: list[tuple[str, CbtfsError]] = []
    for name in wanted:
        try:
            selected.update((vm.id, vm) for vm in select(vms, name))
        except UsageError as exc:
            refused.append((name, exc))
    return VmSelection(list(selected.values()), refused)
