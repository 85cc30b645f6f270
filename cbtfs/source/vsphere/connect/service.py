"""Connect to the SOAP service of a server: choose the API version, bound the answers."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from ssl import SSLContext
from typing import Any, Final

from pyVmomi import SoapAdapter, VmomiSupport, vim

from cbtfs.errors import SourceUnavailable
from cbtfs.source.transport.answers import AnswerLimits, BoundedConnection
from cbtfs.source.vsphere.connect.address import Address
from cbtfs.source.vsphere.connect.tls import unreachable

_VERSIONS: Final = "/sdk/vimServiceVersions.xml"
_MAX_BYTES: Final = 1 << 20
_POOL: Final = 16
OLDEST: Final = "vim25/6.5"
"""Oldest supported version; earlier servers lack calls that cbtfs needs, and TLS 1.2."""


def connect(address: Address, context: SSLContext, seconds: float, limits: AnswerLimits) -> Any:
    """Return a ServiceInstance without a login that uses the newest common API version.

    *seconds* is the timeout of one receive, *limits* are those of a whole answer.
    """
    limits = replace(limits, is_xml=True)
    version = _newest_common(address, _announced(address, context, seconds, limits))
    stub = SoapAdapter.SoapStubAdapter(
        host=address.host,
        port=address.port,
        path="/sdk",
        version=version,
        sslContext=context,
        poolSize=_POOL,
        httpConnectionTimeout=seconds,
    )
    stub.scheme = partial(BoundedConnection, limits=limits)
    return vim.ServiceInstance("ServiceInstance", stub)


def _announced(
    address: Address, context: SSLContext, seconds: float, limits: AnswerLimits
) -> set[str]:
    """Return the API versions that the server supports (vSphere Web Services SDK)."""
    connection = BoundedConnection(
        address.host, address.port, timeout=seconds, context=context, limits=limits
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
            f"{address} answers {answer.status} to a request for its API versions: it is not a "
            "vSphere server, or it is still starting"
        )
    try:
        return set(_versions(ElementTree.fromstring(body)))
    except ElementTree.ParseError as exc:
        raise SourceUnavailable(
            f"{address} is not a vSphere server: its answer is not XML"
        ) from exc


def _versions(root: ElementTree.Element) -> Iterator[str]:
    for namespace in root.iter("namespace"):
        if namespace.findtext("name") == "urn:vim25":
            yield from (version.text or "" for version in namespace.iter("version"))


def _newest_common(address: Address, announced: set[str]) -> str:
    oldest = VmomiSupport.versionMap[OLDEST]
    for version in VmomiSupport.GetServiceVersions("vim25"):
        if VmomiSupport.versionIdMap[version] in announced and VmomiSupport.IsChildVersion(
            version, oldest
        ):
            return str(version)
    raise SourceUnavailable(
        f"{address} does not support the vSphere API 6.5 or later: upgrade it, or use cbtfs with a "
        "newer server"
    )
