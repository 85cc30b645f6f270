"""All virtual machines of a server by one PropertyCollector call, and those that a user means."""

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
_DEEPEST: Final = 250


@dataclass(frozen=True, slots=True)
class ListedVm:
    """A virtual machine as the inventory lists it."""

    object: Any
    id: str
    name: str
    path: str
    """Inventory path, such as /DC0/vm/prod/web1; slashes in names are %2f there."""
    datacenter: str
    """Inventory path of its datacenter, without the first slash."""
    instance_uuid: str | None
    is_template: bool

    @property
    def identity(self) -> str:
        """The VM's key in a repository: its instance UUID, or its managed object id."""
        return self.instance_uuid or f"moref:{self.id}"


def list_vms(session: Session) -> list[ListedVm]:
    """Every virtual machine that the user may see."""
    found = retrieve(
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
    places = {each.id: each for each in found}
    server = str(session.address)
    return [
        _listed(each, places, server)
        for each in found
        if isinstance(each.object, vim.VirtualMachine)
    ]


def _listed(
    found: ObjectProperties, places: Mapping[str, ObjectProperties], server: str
) -> ListedVm:
    name = str(found.values.get("name", ""))
    parts, datacenter = [name], 0
    at = found
    while (above := places.get(_parent_id(at))) is not None:
        if _parent_id(above) or isinstance(above.object, vim.Datacenter):
            parts.append(str(above.values.get("name", "")))
        if isinstance(above.object, vim.Datacenter):
            datacenter = len(parts)
        at = above
        if len(parts) > _DEEPEST:
            raise SourceUnavailable(
                f"{server} reports more than {_DEEPEST} folders above {printable(name)}: a folder "
                "is above itself; see what answers there"
            )
    parts.reverse()
    return ListedVm(
        found.object,
        found.id,
        _unescaped(name),
        "/" + "/".join(parts),
        "/".join(parts[: len(parts) - datacenter + 1]) if datacenter else "",
        found.values.get("config.instanceUuid"),
        bool(found.values.get("config.template", False)),
    )


def _parent_id(found: ObjectProperties) -> str:
    for path in ("parent", "parentVApp", "parentFolder"):
        above = found.values.get(path)
        if above is not None:
            return str(above._moId)
    return ""


def _unescaped(name: str) -> str:
    """vSphere writes slash, backslash and percent in names as %2f, %5c and %25."""
    return _ESCAPES.sub(lambda found: chr(int(found[1], 16)), name)


def _lower_escapes(path: str) -> str:
    """Clients write %2f or %2F."""
    return _ESCAPES.sub(lambda found: found[0].lower(), path)


def select(vms: Sequence[ListedVm], wanted: str) -> list[ListedVm]:
    """The machines that *wanted* means: a name, an inventory path, patterns of both, or a UUID.

    Names and paths may be spelled as the API spells them: `team%2fweb` for `team/web`.
    UsageError if it means none, or if what is no pattern means several: then it lists them.
    """
    path = wanted if wanted.startswith("/") else f"/{wanted}"
    exact = (
        [vm for vm in vms if vm.name == wanted]
        or [vm for vm in vms if vm.name == _unescaped(wanted)]
        or [vm for vm in vms if _lower_escapes(vm.path) == _lower_escapes(path)]
    )
    if not exact and _UUID.match(wanted):
        exact = [vm for vm in vms if (vm.instance_uuid or "").lower() == wanted.lower()]
    if len(exact) > 1:
        raise UsageError(f"VM {printable(wanted)!r} is ambiguous: name one of {_listing(exact)}")
    found = exact or [
        vm
        for vm in vms
        if not vm.is_template
        and (
            fnmatchcase(vm.name, wanted)
            or fnmatchcase(vm.name, _unescaped(wanted))
            or ("/" in wanted and fnmatchcase(vm.path, path))
        )
    ]
    if not found:
        raise UsageError(f"no VM {printable(wanted)!r} on this server that the user may see")
    return found


def _listing(vms: Iterable[ListedVm]) -> str:
    paths = sorted(vm.path for vm in vms)
    return ", ".join(map(printable, paths[:_SHOWN])) + (" …" if len(paths) > _SHOWN else "")


@dataclass(frozen=True, slots=True)
class VmSelection:
    """What several names mean together, each machine once, and what is wrong with some."""

    vms: list[ListedVm]
    refused: list[tuple[str, CbtfsError]]


def select_all(vms: Sequence[ListedVm], wanted: Iterable[str]) -> VmSelection:
    """What each of *wanted* means."""
    found: dict[str, ListedVm] = {}
    refused: list[tuple[str, CbtfsError]] = []
    for name in wanted:
        try:
            found.update((vm.id, vm) for vm in select(vms, name))
        except UsageError as exc:
            refused.append((name, exc))
    return VmSelection(list(found.values()), refused)
