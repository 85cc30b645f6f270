"""Ask the server which privileges the session's user lacks."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.faults import error_of
from cbtfs.source.vsphere.connect.role import ROLE, On
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.properties import read

_ENTITIES: Final = 250
"""Maximum number of objects in one call."""

Lacking = Mapping[str, frozenset[str]]
"""Ids of the missing privileges, by managed object id."""


_KINDS: Final[Mapping[On, Any]] = {
    "vm": vim.VirtualMachine,
    "datastore": vim.Datastore,
    "root": vim.Folder,
}


def lacking(session: Session, ids: Sequence[str], on: On) -> Lacking:
    """Return the privileges of the role that the user lacks on each object.

    *ids* are managed object ids. The call is HasPrivilegeOnEntities, new in API 5.5.
    """
    stub = session.content.rootFolder._stub
    objects = [_KINDS[on](identity, stub) for identity in ids]
    wanted = [privilege.id for privilege in ROLE if privilege.on == on]
    missing: dict[str, frozenset[str]] = {}
    for start in range(0, len(objects), _ENTITIES):
        missing.update(_lacking(session, objects[start : start + _ENTITIES], wanted))
    return missing


def _lacking(session: Session, objects: Sequence[Any], wanted: list[str]) -> Lacking:
    """Return the missing privileges: none for a deleted object, all for an invisible one."""
    what = "check privileges"
    try:
        answers = session.repeat(lambda: _ask(session, list(objects), wanted), what)
    except (vim.fault.NoPermission, vmodl.fault.ManagedObjectNotFound) as fault:
        if isinstance(fault, vim.fault.NotAuthenticated):
            raise error_of(fault, what) from fault
        if len(objects) > 1:
            half = len(objects) // 2
            parts = (objects[:half], objects[half:])
            return dict(ChainMap(*(dict(_lacking(session, part, wanted)) for part in parts)))
        is_hidden = isinstance(fault, vim.fault.NoPermission)
        return {str(entity._moId): frozenset(wanted) for entity in objects if is_hidden}
    except vmodl.MethodFault as fault:
        raise error_of(fault, what) from fault
    return {
        str(answer.entity._moId): frozenset(wanted)
        - {str(status.privId) for status in answer.privAvailability if status.isGranted}
        for answer in answers
    }


def _ask(session: Session, objects: list[Any], wanted: list[str]) -> Any:
    """Call HasPrivilegeOnEntities with the session's key, which changes with each login."""
    content = session.content
    current = read(session, content.sessionManager, "currentSession").get("currentSession")
    if current is None:
        raise SourceUnavailable(
            f"{session.address} does not report the current session, so privileges cannot be "
            "checked: check which program answers there"
        )
    return content.authorizationManager.HasPrivilegeOnEntities(objects, current.key, wanted)
