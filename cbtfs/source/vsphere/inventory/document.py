"""Convert vSphere data objects to JSON without values that may be secret."""

import base64
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from pyVmomi import VmomiSupport, vim

from cbtfs.source.vsphere.inventory.settings import has_login, is_kept, suggests_secret

_OPTION: Final = vim.option.OptionValue


def document_of(config: Any) -> dict[str, Any]:
    """Return a VirtualMachineConfigInfo as JSON, with the names of the omitted members.

    Omitted are notes, which may contain anything, settings that is_kept() rejects, the values of
    vApp properties and sections, strings whose name suggests a secret, and URLs with a login.
    """
    left_out: list[str] = []
    document = _object(config, "", left_out)
    return {"left_out": left_out, "config": document}


def _object(value: Any, path: str, left_out: list[str]) -> dict[str, Any]:
    document: dict[str, Any] = {"type": type(value).__name__}
    for name, member in _members(value):
        member_path = f"{path}.{name}" if path else name
        if _is_left_out(value, name, member):
            left_out.append(f"{path} {value.key}" if isinstance(value, _OPTION) else member_path)
        else:
            document[name] = _plain(member, member_path, left_out)
    return document


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    for info in value._GetPropertyList():
        member = getattr(value, info.name)
        is_empty = member is None or (isinstance(member, list) and not member)
        if not is_empty and info.name not in ("dynamicType", "dynamicProperty"):
            yield info.name, member


def _is_left_out(owner: Any, name: str, value: Any) -> bool:
    if isinstance(owner, _OPTION) and name == "value":
        return not is_kept(str(owner.key), str(value))
    if isinstance(owner, vim.vm.ConfigInfo) and name == "annotation":
        return True
    if isinstance(owner, vim.vApp.PropertyInfo) and name in ("value", "defaultValue"):
        return True
    if isinstance(owner, vim.vApp.OvfSectionInfo) and name == "contents":
        return True
    if isinstance(value, str):
        return has_login(value) or (name != "key" and suggests_secret(name))
    return False


def _plain(value: Any, path: str, left_out: list[str]) -> Any:
    if isinstance(value, VmomiSupport.ManagedObject):
        return str(value._moId)
    if isinstance(value, VmomiSupport.DataObject):
        return _object(value, path, left_out)
    if isinstance(value, list):
        return [_plain(item, path, left_out) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)
