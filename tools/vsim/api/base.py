"""Managed objects, sessions and calls, and the site as managed objects see it.

These refer to each other, so they are one module. It imports no kind of managed object: the kinds
import it, and `site.SimulatedSite` assembles them. The protocols below name what the kinds need.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Protocol

from tools.vsim.api.event_log import EventLog
from tools.vsim.data.files import DatastoreContents
from tools.vsim.fault import Fault, MoRef, no_permission
from tools.vsim.inventory import UserEntry
from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.snapshot import Snapshot
from tools.vsim.model.world import World
from tools.vsim.rules import CallRule
from tools.vsim.soap.vmodl import declared_properties, kind_name, managed_object, typed

Properties = Mapping[str, Callable[[], Any]]
Work = Callable[[], MoRef | None]


class SessionTable(Protocol):
    """All open sessions."""

    def __iter__(self) -> Iterator["ClientSession"]: ...

    def open(self, name: str, password: str) -> "ClientSession":
        """Return a new session; raise InvalidLogin."""

    def close(self, session: "ClientSession") -> None:
        """End the session and its objects."""


class TaskTable(Protocol):
    """All tasks."""

    def references(self, machine: SimulatedMachine | None = None) -> list[Any]:
        """Return references to the tasks of one machine, or of all machines."""

    def active(self, machine: SimulatedMachine) -> "ManagedObject | None":
        """Return the unfinished task of a machine."""

    def start(self, call: "MethodCall", machine: SimulatedMachine, work: Work) -> Any:
        """Start a task that runs *work*; return its reference."""


class LeaseTable(Protocol):
    """All export leases."""

    def require_none(self, machine: SimulatedMachine) -> None:
        """Raise InvalidState while the machine is exported."""

    def export_snapshot(
        self, call: "MethodCall", machine: SimulatedMachine, snapshot: Snapshot
    ) -> Any:
        """Open a lease on the disks of a snapshot; return its reference."""

    def export_machine(self, call: "MethodCall", machine: SimulatedMachine) -> Any:
        """Open a lease on the disks of a machine that is off; return its reference."""


class TicketTable(Protocol):
    """Tickets of the NFC server."""

    def issue(self, ticket: Any) -> str:
        """Return the token of a new ticket."""

    def address(self, host: str) -> Any:
        """Return the address of the server of a host."""


class Site(Protocol):
    """The simulated installation as its managed objects use it.

    The world's lock covers all methods.
    """

    closing: bool  # the simulator shuts down
    scheme: str  # scheme, host and port of the HTTPS server
    host: str
    port: int
    thumbprint: str  # SHA-1 of the certificate

    @property
    def world(self) -> World: ...

    @property
    def about(self) -> Any:
        """AboutInfo."""

    @property
    def files(self) -> DatastoreContents: ...

    @property
    def sessions(self) -> SessionTable: ...

    @property
    def tasks(self) -> TaskTable: ...

    @property
    def leases(self) -> LeaseTable: ...

    @property
    def nfc(self) -> TicketTable: ...

    @property
    def events(self) -> EventLog: ...

    @property
    def root(self) -> "ManagedObject":
        """The root folder."""

    @property
    def managers(self) -> Mapping[str, "ManagedObject"]:
        """Managers by their names in ServiceInstanceContent."""

    def find(self, moid: str, session: "ClientSession | None") -> "ManagedObject | None":
        """Return the object with that id, as *session* sees it."""

    def require(self, moid: str, session: "ClientSession | None") -> "ManagedObject":
        """Return the object like `find`; raise ManagedObjectNotFound."""

    def furnish(self, session: "ClientSession") -> None:
        """Create the objects that every session owns."""

    def parent_of(self, ref: MoRef) -> Any:
        """Return a reference to the folder of a machine."""

    def host_of(self, ref: MoRef) -> Any:
        """Return a reference to the host of a machine."""

    def pool_of(self, ref: MoRef) -> Any:
        """Return a reference to the resource pool of a machine."""

    def machines_on(self, host: "ManagedObject") -> list[Any]:
        """Return references to the machines of a host."""

    def machines_of(self, datastore: str) -> list[Any]:
        """Return references to the machines with files on a datastore."""


class ManagedObject:
    """A managed object. Subclasses set *kind* and name methods as the WSDL does.

    A method takes the Call and the API's parameters by name; unset parameters are None.
    """

    kind: ClassVar[Any]

    def __init__(self, site: Site, moid: str) -> None:
        self.site = site
        self.moid = moid

    @property
    def ref(self) -> MoRef:
        return MoRef(kind_name(self.kind), self.moid)

    @property
    def object(self) -> Any:
        """Reference as a pyVmomi object."""
        return managed_object(self.ref)

    @property
    def name(self) -> str:
        return self.moid

    def properties(self) -> Properties:
        """Return a function for each property that is set."""
        return {}

    def children(self) -> "list[ManagedObject]":
        """Return the managed entities directly below, as a container view shows them."""
        return []

    def read(self, name: str, computed: dict[str, Any] | None = None) -> Any:
        """Return a property with its declared type; None if unset. Raises InvalidProperty.

        *name* may be a path, such as config.hardware.device. *computed* caches whole properties
        for further paths of the same object.
        """
        first, _, rest = name.partition(".")
        declared = declared_properties(self.kind)
        if first not in declared:
            raise invalid_property(name)
        if computed is not None and first in computed:
            value = computed[first]
        else:
            compute = self.properties().get(first)
            value = typed(declared[first], compute() if compute else None)
            if computed is not None:
                computed[first] = value
        for part in rest.split(".") if rest else ():
            if value is None:
                return None
            value = _member(value, part, name)
        return value


class SessionObject(ManagedObject):
    """A managed object that belongs to a session."""

    def end(self) -> None:
        """Release resources when the session ends."""


@dataclass(eq=False, slots=True)
class ClientSession:
    """One login."""

    key: str
    user: UserEntry
    login_time: datetime
    last_active: float
    calls: int = 0
    objects: dict[str, ManagedObject] = field(default_factory=dict)  # views, filters, collectors

    def allows(self, privilege: str | None) -> bool:
        """Return whether the user holds the privilege with that id."""
        if not privilege or privilege in ("System.Anonymous", "System.View"):
            return True
        return any(fnmatchcase(privilege, pattern) for pattern in self.user.privileges) and not any(
            fnmatchcase(privilege, pattern) for pattern in self.user.denied
        )

    def require(self, privilege: str | None, target: MoRef) -> None:
        """Raise NoPermission if the user lacks the privilege."""
        if not self.allows(privilege):
            raise no_permission(target, privilege)


@dataclass(slots=True)
class MethodCall:
    """One call of an API method."""

    method: str  # WSDL name
    version: str  # pyVmomi's name of the API version
    session: ClientSession | None
    opened: ClientSession | None = None  # the session that Login created
    task_rules: list[CallRule] = field(default_factory=list)  # rules that act on the call's task

    @property
    def caller(self) -> ClientSession:
        """Session of the caller; raises NotAuthenticated without a session."""
        if self.session is None:
            raise Fault("vim.fault.NotAuthenticated", "The session is not authenticated.")
        return self.session


def _member(value: Any, part: str, path: str) -> Any:
    try:
        declared = value._GetPropertyInfo(part).type
    except AttributeError as error:
        raise invalid_property(path) from error
    return typed(declared, getattr(value, part))


def escaped_name(name: str) -> str:
    """Return the name as the API shows it: percent, slash and backslash are escaped."""
    return name.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")


def invalid_property(path: str) -> Fault:
    """Return the fault for a property that the type does not have."""
    return Fault("vmodl.query.InvalidProperty", f"The property '{path}' is invalid.", name=path)
