"""Serialisation of results and faults to SOAP replies."""

import copy
from typing import Any
from xml.sax.saxutils import escape

from pyVmomi import SoapAdapter, VmomiSupport

from tools.vsim.fault import Fault
from tools.vsim.soap.nfc import METHODS, RawResult
from tools.vsim.soap.vmodl import method_fault, method_named

NAMESPACE: str = VmomiSupport.XMLNS_VMODL_BASE
START = f"{SoapAdapter.XML_HEADER}\n{SoapAdapter.SOAP_START}"


def _namespaces() -> dict[str, str]:
    return {**SoapAdapter.SOAP_NSMAP, NAMESPACE: ""}


def _element(value: Any, declared: Any, version: str, name: str, optional: bool = False) -> str:
    info = VmomiSupport.Object(
        name=name,
        type=declared,
        version=version,
        flags=VmomiSupport.F_OPTIONAL if optional else 0,
    )
    return str(SoapAdapter.SerializeToStr(value, info, version, _namespaces()))


def result_reply(method: str, value: Any, version: str, namespace: str = NAMESPACE) -> bytes:
    """Return a reply with the result of *method*; it is empty if *value* is None."""
    declared = object if method == "Fetch" else method_named(method).info.result
    if method in METHODS:  # tickets have fields that clients of older versions know, too
        version = VmomiSupport.newestVersions.Get("vim")
    if isinstance(value, RawResult):
        inner = str(value)
    else:
        inner = (
            "" if value is None else _element(value, declared, version, "returnval", optional=True)
        )
    response = f'<{method}Response xmlns="{namespace}">{inner}</{method}Response>'
    return f"{START}{response}{SoapAdapter.SOAP_END}".encode()


def fault_reply(fault: Fault, version: str) -> bytes:
    """Return a SOAP fault. Its children have no namespace; its detail is named <Type>Fault."""
    detail = copy.copy(method_fault(fault))
    detail.msg = None
    name = VmomiSupport.GetWsdlName(type(detail))
    info = VmomiSupport.Object(name=f"{name}Fault", type=object, version=version, flags=0)
    body = SoapAdapter.SerializeFaultDetail(detail, info, version, _namespaces())
    body = body.replace(f"<{name}Fault", f'<{name}Fault xmlns="{NAMESPACE}"', 1)
    envelope = (
        f"<{SoapAdapter.SOAP_FAULT_TAG}><faultcode>ServerFaultCode</faultcode>"
        f"<faultstring>{escape(fault.message)}</faultstring>"
        f"<detail>{body}</detail></{SoapAdapter.SOAP_FAULT_TAG}>"
    )
    return f"{START}{envelope}{SoapAdapter.SOAP_END}".encode()


def fingerprint(value: Any, version: str) -> str:
    """Return a text that is equal for equal values."""
    return _element(value, object, version, "value", optional=True)
