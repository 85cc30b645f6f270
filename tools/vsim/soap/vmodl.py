"""pyVmomi's types, and its descriptions of properties and methods.

pyVmomi changes its global type information when a client in the same process reads array
properties. Declared property types are therefore copied before the first request.
"""

from functools import cache
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl

from tools.vsim.fault import Fault, MoRef
from tools.vsim.soap import nfc

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
    """Return the vSphere name of a pyVmomi type, such as vim.VirtualMachine."""
    return str(kind.__name__)


def declared_properties(kind: Any) -> dict[str, Any]:
    """Return name and type of each property of a managed object type."""
    return _DECLARED[kind.__name__]


@cache
def type_named(name: str) -> Any:
    """Return the pyVmomi type of a full name such as vim.fault.FileFault; raises KeyError."""
    try:
        return VmomiSupport.GetVmodlType(name)
    except (KeyError, AttributeError) as error:
        raise KeyError(name) from error


def kind_named(wsdl_name: str) -> str:
    """Return the vSphere name of a managed object type, by WSDL name; raises KeyError."""
    if wsdl_name in nfc.KINDS:
        return nfc.KINDS[wsdl_name]
    return kind_name(VmomiSupport.GetWsdlType(VmomiSupport.XMLNS_VMODL_BASE, wsdl_name))


def method_named(wsdl_name: str) -> Any:
    """Return the description of a method; raises KeyError."""
    if wsdl_name in nfc.METHODS:
        return nfc.METHODS[wsdl_name]
    return VmomiSupport.GetWsdlMethod(VmomiSupport.XMLNS_VMODL_BASE, wsdl_name)


def managed_object(ref: MoRef) -> Any:
    """Return the reference as a pyVmomi object."""
    return type_named(ref.kind)(ref.moid)


def typed(declared: Any, value: Any) -> Any:
    """Convert *value* so that the serialiser writes its declared type for type `any`."""
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
    """Return the fault as a pyVmomi exception; raises KeyError if its type does not exist."""
    kind = type_named(fault.name)
    exception = kind()
    for name, value in fault.fields.items():
        setattr(exception, name, _field(value))
    for info in kind._GetPropertyList():  # the serialiser rejects unset required fields
        if not info.flags & VmomiSupport.F_OPTIONAL and getattr(exception, info.name) is None:
            setattr(exception, info.name, _placeholder(info.type))
    exception.msg = fault.message
    return exception


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
