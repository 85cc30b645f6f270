"""What every managed object has: a reference, properties, children, methods named as in the API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from tools.vsim.fault import Fault, Ref
from tools.vsim.soap.vmodl import declared_properties, kind_name, managed_object, typed

if TYPE_CHECKING:
    from tools.vsim.api.session import Session
    from tools.vsim.api.site import Site
    from tools.vsim.rules import CallRule

Properties = Mapping[str, Callable[[], Any]]


@dataclass(slots=True)
class Call:
    """Who calls what, in which version of the API."""

    method: str  # wsdl name
    version: str  # pyVmomi's name of the version
    session: "Session | None"
    opened: "Session | None" = None  # what Login made
    task_rules: "list[CallRule]" = field(default_factory=list)  # that act on the call's task

    @property
    def caller(self) -> "Session":
        """The session of a call that only logged-in clients may make."""
        if self.session is None:
            raise Fault("vim.fault.NotAuthenticated", "The session is not authenticated.")
        return self.session


class Served:
    """A managed object. Subclasses set *kind* and give methods the WSDL names of the API.

    A method takes the Call and the API's parameters by name, unset ones as None.
    """

    kind: ClassVar[Any]

    def __init__(self, site: "Site", moid: str) -> None:
        self.site = site
        self.moid = moid

    @property
    def ref(self) -> Ref:
        return Ref(kind_name(self.kind), self.moid)

    @property
    def object(self) -> Any:
        """The reference as pyVmomi has it."""
        return managed_object(self.ref)

    @property
    def name(self) -> str:
        return self.moid

    def properties(self) -> Properties:
        """How to compute each property; what is missing here is unset."""
        return {}

    def children(self) -> "list[Served]":
        """The managed entities below, as a container view finds them."""
        return []

    def read(self, name: str, computed: dict[str, Any] | None = None) -> Any:
        """The property, typed as declared; None if unset. Raises InvalidProperty.

        *name* may be a path, such as config.hardware.device. *computed* keeps whole properties for
        the next path of the same object.
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


def _member(value: Any, part: str, path: str) -> Any:
    try:
        declared = value._GetPropertyInfo(part).type
    except AttributeError as error:
        raise invalid_property(path) from error
    return typed(declared, getattr(value, part))


def spelled(name: str) -> str:
    """The name as the API has it: percent, slash and backslash are escaped in it."""
    return name.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")


def invalid_property(path: str) -> Fault:
    """There is no such property in the type."""
    return Fault("vmodl.query.InvalidProperty", f"The property '{path}' is invalid.", name=path)
