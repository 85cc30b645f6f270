"""The SOAP end of a server: which version of the API to speak, over connections of ours."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import partial
from http.client import HTTPException
from ssl import SSLContext
from typing import Any, Final

from pyVmomi import SoapAdapter, VmomiSupport, vim

from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.answers import BoundedConnection
from cbtfs.source.vsphere.connect.address import Address
from cbtfs.source.vsphere.connect.tls import unreachable

_VERSIONS: Final = "/sdk/vimServiceVersions.xml"
_MAX_BYTES: Final = 1 << 20
_POOL: Final = 16
OLDEST: Final = "vim25/6.5"
"""Older servers know neither what is asked for here nor TLS as it should be."""


def connect(
    address: Address, context: SSLContext, seconds: float, call_seconds: float, max_bytes: int
) -> Any:
    """A ServiceInstance, not logged in, that speaks the newest version both sides know.

    *seconds* bound a wait for bytes, *call_seconds* and *max_bytes* a whole answer.
    """
    version = _newest_common(address, _announced(address, context, seconds, call_seconds))
    stub = SoapAdapter.SoapStubAdapter(
        host=address.host,
        port=address.port,
        path="/sdk",
        version=version,
        sslContext=context,
        poolSize=_POOL,
        httpConnectionTimeout=seconds,
    )
    stub.scheme = partial(
        BoundedConnection, call_seconds=call_seconds, max_bytes=max_bytes, is_xml=True
    )
    return vim.ServiceInstance("ServiceInstance", stub)


def _announced(
    address: Address, context: SSLContext, seconds: float, call_seconds: float
) -> set[str]:
    """The versions that the server says it speaks (vSphere Web Services SDK)."""
    connection = BoundedConnection(
        address.host,
        address.port,
        timeout=seconds,
        context=context,
        call_seconds=call_seconds,
        is_xml=True,
    )
    try:
        connection.request("GET", _VERSIONS)
        answer = connection.getresponse()
        body = answer.read(_MAX_BYTES)
    except (OSError, HTTPException) as exc:
        raise unreachable(address, exc) from exc
    finally:
        connection.close()
    if answer.status != 200:
        raise SourceUnavailable(
            f"{address} answers {answer.status} where a vSphere tells its versions: it is none, "
            "or it is still starting"
        )
    try:
        return set(_versions(ElementTree.fromstring(body)))
    except ElementTree.ParseError as exc:
        raise SourceUnavailable(f"{address} is no vSphere: what it answers is not XML") from exc


def _versions(root: ElementTree.Element) -> Iterator[str]:
    for namespace in root.iter("namespace"):
        if namespace.findtext("name") == "urn:vim25":
            yield from (each.text or "" for each in namespace.iter("version"))


def _newest_common(address: Address, announced: set[str]) -> str:
    oldest = VmomiSupport.versionMap[OLDEST]
    for version in VmomiSupport.GetServiceVersions("vim25"):
        if VmomiSupport.versionIdMap[version] in announced and VmomiSupport.IsChildVersion(
            version, oldest
        ):
            return str(version)
    raise SourceUnavailable(
        f"{address} speaks no version of the vSphere API from 6.5 on: use cbtfs with a newer one"
    )
