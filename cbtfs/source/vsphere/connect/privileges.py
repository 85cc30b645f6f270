"""Which privileges the session's user lacks, as the server itself answers."""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.faults import meaning
from cbtfs.source.vsphere.connect.role import ROLE, On
from cbtfs.source.vsphere.connect.session import Session
from cbtfs.source.vsphere.inventory.properties import read

_ENTITIES: Final = 250
"""Asked about in one call."""

Lacking = Mapping[str, frozenset[str]]
"""By managed object id, the ids of the privileges that the user does not have on it."""


_KINDS: Final[Mapping[On, Any]] = {
    "vm": vim.VirtualMachine,
    "datastore": vim.Datastore,
    "root": vim.Folder,
}


def lacking(session: Session, ids: Sequence[str], on: On) -> Lacking:
    """What of the role the user lacks on each of those objects (HasPrivilegeOnEntities, API 5.5).

    *ids* are managed object ids.
    """
    stub = session.content.rootFolder._stub
    objects = [_KINDS[on](each, stub) for each in ids]
    wanted = [each.id for each in ROLE if each.on == on]
    found: dict[str, frozenset[str]] = {}
    for start in range(0, len(objects), _ENTITIES):
        found.update(_lacking(session, objects[start : start + _ENTITIES], wanted))
    return found


def _lacking(session: Session, objects: Sequence[Any], wanted: list[str]) -> Lacking:
    """One that is gone is not there; on one that the user may not see, everything is lacking."""
    what = "ask for privileges"
    try:
        answers = session.repeat(lambda: _ask(session, list(objects), wanted), what)
    except (vim.fault.NoPermission, vmodl.fault.ManagedObjectNotFound) as fault:
        if isinstance(fault, vim.fault.NotAuthenticated):
            raise meaning(fault, what) from fault
        if len(objects) > 1:
            half = len(objects) // 2
            parts = (objects[:half], objects[half:])
            return dict(ChainMap(*(dict(_lacking(session, part, wanted)) for part in parts)))
        is_hidden = isinstance(fault, vim.fault.NoPermission)
        return {str(each._moId): frozenset(wanted) for each in objects if is_hidden}
    except vmodl.MethodFault as fault:
        raise meaning(fault, what) from fault
    return {
        str(answer.entity._moId): frozenset(wanted)
        - {str(each.privId) for each in answer.privAvailability if each.isGranted}
        for answer in answers
    }


def _ask(session: Session, objects: list[Any], wanted: list[str]) -> Any:
    """The session's key changes with each login, so it is read anew for each try."""
    content = session.content
    current = read(session, content.sessionManager, "currentSession").get("currentSession")
    if current is None:
        raise SourceUnavailable(
            f"{session.address} does not tell the current session: privileges cannot be asked for; "
            "see what answers there"
        )
    return content.authorizationManager.HasPrivilegeOnEntities(objects, current.key, wanted)
