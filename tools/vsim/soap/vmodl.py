"""The door to pyVmomi: its types, and what it knows of properties and methods.

pyVmomi changes its global type information when a client in the same process reads array
properties, so declared property types are copied before the first request.
"""

from functools import cache
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl

from tools.vsim.fault import Fault, MoRef

__all__ = [
    "Collector",
    "declared_properties",
    "kind_name",
    "kind_named",
    "long",
    "managed_object",
    "method_named",
    "type_named",
    "typed",
    "vim",
    "vmodl",
]

Collector = vmodl.query.PropertyCollector
long = VmomiSupport.long
SERVED_KINDS = (
    vim.Folder,
    vim.Datacenter,
    vim.Datastore,
    vim.VirtualMachine,
    vim.HostSystem,
    vim.ComputeResource,
    vim.ResourcePool,
    vim.Network,
    vim.vm.Snapshot,
    vim.HttpNfcLease,
    vim.Task,
    vim.TaskManager,
    vim.ServiceInstance,
    vim.SessionManager,
    vim.SearchIndex,
    vim.AuthorizationManager,
    vim.FileManager,
    vim.event.EventManager,
    vim.event.EventHistoryCollector,
    vim.view.ViewManager,
    vim.view.ContainerView,
    vim.view.ListView,
    Collector,
    Collector.Filter,
)


def _properties(kind: Any) -> dict[str, Any]:
    return {info.name: info.type for info in kind._GetPropertyList()}


_DECLARED: dict[str, dict[str, Any]] = {kind.__name__: _properties(kind) for kind in SERVED_KINDS}


def kind_name(kind: Any) -> str:
    """The vSphere name of a pyVmomi type, such as vim.VirtualMachine."""
    return str(kind.__name__)


def declared_properties(kind: Any) -> dict[str, Any]:
    """Name and type of each property of a managed object type."""
    return _DECLARED[kind.__name__]


@cache
def type_named(name: str) -> Any:
    """The pyVmomi type of a full name such as vim.fault.FileFault; raises KeyError."""
    try:
        return VmomiSupport.GetVmodlType(name)
    except (KeyError, AttributeError) as error:
        raise KeyError(name) from error


def kind_named(wsdl_name: str) -> str:
    """The vSphere name of a managed object type's WSDL name; raises KeyError."""
    return kind_name(VmomiSupport.GetWsdlType(VmomiSupport.XMLNS_VMODL_BASE, wsdl_name))


def method_named(wsdl_name: str) -> Any:
    """pyVmomi's description of a method; raises KeyError."""
    return VmomiSupport.GetWsdlMethod(VmomiSupport.XMLNS_VMODL_BASE, wsdl_name)


def managed_object(ref: MoRef) -> Any:
    """The reference as pyVmomi has it."""
    return type_named(ref.kind)(ref.moid)


def typed(declared: Any, value: Any) -> Any:
    """*value* such that the serialiser announces the declared type where any may stand."""
    if value is None:
        return None
    if issubclass(declared, list):
        return declared(typed(declared.Item, item) for item in value)
    if isinstance(value, str) and issubclass(declared, VmomiSupport.Enum):
        return getattr(declared, value)
    if isinstance(value, int) and not isinstance(value, bool) and declared in (int, long):
        return declared(value)
    return value


def method_fault(fault: Fault) -> Any:
    """The fault as a pyVmomi exception object; raises KeyError for a name that does not exist."""
    kind = type_named(fault.name)
    built = kind()
    for name, value in fault.fields.items():
        setattr(built, name, _field(value))
    for info in kind._GetPropertyList():  # the serialiser refuses unset required fields
        if not info.flags & VmomiSupport.F_OPTIONAL and getattr(built, info.name) is None:
            setattr(built, info.name, _placeholder(info.type))
    built.msg = fault.message
    return built


def _field(value: object) -> Any:
    if isinstance(value, MoRef):
        return managed_object(value)
    if isinstance(value, Fault):
        return method_fault(value)
    if isinstance(value, (list, tuple)):
        return [_field(item) for item in value]
    return value


def _placeholder(declared: Any) -> Any:
    if issubclass(declared, VmomiSupport.ManagedObject):
        return declared("unknown")
    if issubclass(declared, Exception):
        return vmodl.fault.SystemError(reason="")
    if issubclass(declared, VmomiSupport.Enum):
        return declared.values[0]
    return declared()
