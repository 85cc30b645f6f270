"""Ask the server for a ticket, with which a host serves the disks of one VM.

The service is absent from the public description of the API and from pyVmomi, so the calls are raw
SOAP in the session of the login. A ticket is used once.
"""

import http.client
import logging
import re
import ssl
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from cbtfs.core.names import printable
from cbtfs.errors import AccessDenied, SourceUnavailable
from cbtfs.source.secret import Secret
from cbtfs.source.transport.answers import AnswerRefused
from cbtfs.source.transport.nfc.failures import HostUnavailable
from cbtfs.source.transport.web import Web

log = logging.getLogger(__name__)

_MAX_ANSWER: Final = 1 << 20
_DEFAULT_PORT: Final = 902
_LOGINS: Final = 3
"""Maximum number of renewals of the login within one call."""
_NAMESPACE: Final = "urn:vim25"
_TYPE: Final = "{http://www.w3.org/2001/XMLSchema-instance}type"
_ENVELOPE: Final = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>'
    '<{method} xmlns="urn:vim25"><_this type="{kind}">{this}</_this>{arguments}</{method}>'
    "</e:Body></e:Envelope>"
)
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{40}(?:[0-9A-Fa-f]{24})?\Z")
"""SHA-1 or SHA-256, without colons."""
_SERVICE_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_TOKEN: Final = re.compile(r"[!-~]{1,512}\Z")
_TRANSIENT: Final = frozenset(
    {
        "HostCommunication",
        "HostConnectFault",
        "HostNotConnected",
        "HostNotReachable",
        "InvalidState",
        "InvalidHostState",
        "InvalidHostConnectionState",
        "SystemError",
        "TaskInProgress",
        "Timedout",
    }
)
"""Faults of a host that is in maintenance, disconnected or busy."""
_ABSENT: Final = frozenset(
    {"InvalidRequest", "ManagedObjectNotFound", "MethodNotFound", "NotImplemented", "NotSupported"}
)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to read the disks of one VM from one host, once."""

    host: str
    port: int
    digest: bytes | None
    """SHA-1 (20 bytes) or SHA-256 (32 bytes) of the host's certificate."""
    certificate: bytes | None
    """The host's certificate in DER. A ticket has it or the digest."""
    service: str
    token: Secret


class TicketOffice:
    """Gets tickets in the session of a login. Safe to use from several threads."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._lock = threading.Lock()
        self._service: str | None = None

    def ticket(self, vm: str) -> Ticket:
        """Return a new ticket for the VM with that managed object ID.

        Raises:
            HostUnavailable: the VM's host does not serve disks now.
            AccessDenied: the user lacks the privilege.
            SourceUnavailable: the server gives no ticket.
        """
        service = self._service_id()
        argument = f'<vm type="VirtualMachine">{escape(vm)}</vm>'
        answer = self._call("NfcGetVmFiles", "NfcService", service, argument)
        return parse_ticket(answer, self._web.host)

    def _service_id(self) -> str:
        """Return the managed object ID of the service, which the server names on request."""
        with self._lock:
            if self._service is None:
                content = self._call("RetrieveInternalContent", "ServiceInstance")
                service = content.find(f"{{{_NAMESPACE}}}nfcService")
                if service is None or not service.text:
                    raise SourceUnavailable(f"{self._web.host} has no NFC service")
                self._service = service.text
            return self._service

    def _call(
        self, method: str, kind: str, this: str = "ServiceInstance", arguments: str = ""
    ) -> ElementTree.Element:
        """Return the `returnval` of a call, which may be carried out twice."""
        web = self._web
        body = _ENVELOPE.format(method=method, kind=kind, this=escape(this), arguments=arguments)
        pauses, renewals = list(web.pauses), 0
        before = web.disturbances()
        while True:
            login = web.login()
            try:
                status, answer = self._exchange(body)
            except (OSError, http.client.HTTPException) as exc:
                why = str(exc) or type(exc).__name__
            else:
                fault = fault_of(status, answer)
                if fault is None and status == 200:
                    return result_of(answer, method)
                if fault is not None and fault.name == "NotAuthenticated" and renewals < _LOGINS:
                    renewals += 1
                    web.renew(login)
                    continue
                if fault is not None:
                    raise fault.error(method)
                why = f"the server answers {status}"
            if pauses:
                log.info("%s: %s: retrying", method, why)
                web.sleep(pauses.pop(0))
            elif web.outlast(before):
                before, pauses = web.disturbances(), list(web.pauses)
            else:
                raise SourceUnavailable(f"{method} failed: {why}")

    def _exchange(self, body: str) -> tuple[int, bytes]:
        web = self._web
        headers = {
            "Cookie": web.cookie().reveal(),
            "SOAPAction": f'"{web.version}"',
            "Content-Type": "text/xml; charset=UTF-8",
        }
        with web.lend() as connection:
            connection.request("POST", "/sdk", body.encode(), headers)
            answer = connection.getresponse()
            content = answer.read(_MAX_ANSWER + 1)
            if len(content) > _MAX_ANSWER:
                raise AnswerRefused(
                    f"{web.host} answers with more than {_MAX_ANSWER} bytes: check which program "
                    "answers there"
                )
            return answer.status, content


@dataclass(frozen=True, slots=True)
class Fault:
    """A SOAP fault."""

    name: str
    text: str
    privilege: str | None

    def error(self, method: str) -> SourceUnavailable | AccessDenied:
        """Return the error for a call of *method* that this fault ended."""
        said = f"{method}: {self.name} ({self.text})" if self.text else f"{method}: {self.name}"
        if self.name == "NoPermission":
            return AccessDenied(
                f"{method}: the user lacks the privilege {self.privilege or 'for it'}: add it to "
                "the user's role"
            )
        if self.name in _TRANSIENT:
            return HostUnavailable(f"{said}: the host is in maintenance, disconnected or busy")
        if self.name in _ABSENT:
            return SourceUnavailable(f"{said}: this server does not give tickets for NFC")
        return SourceUnavailable(said)


def fault_of(status: int, answer: bytes) -> Fault | None:
    """Return the fault in an answer; None if it has none."""
    if status != 500:
        return None
    try:
        root = ElementTree.fromstring(answer)
    except ElementTree.ParseError:
        return None
    fault = next(root.iter("{http://schemas.xmlsoap.org/soap/envelope/}Fault"), None)
    if fault is None:
        return None
    detail = fault.find("detail")
    kind = None if detail is None else next(iter(detail), None)
    if kind is None:
        name, privilege = "a fault", None
    else:
        tag = kind.tag.rpartition("}")[2].removesuffix("Fault")
        name = kind.get(_TYPE, tag).rpartition(":")[2]
        privilege = next(
            (part.text for part in kind if part.tag.rpartition("}")[2] == "privilegeId"), None
        )
    text = printable(" ".join((fault.findtext("faultstring") or "").split()))[:300]
    return Fault(printable(name), text, None if privilege is None else printable(privilege))


def result_of(answer: bytes, method: str) -> ElementTree.Element:
    """Return the `returnval` of an answer; SourceUnavailable if it has none."""
    try:
        root = ElementTree.fromstring(answer)
    except ElementTree.ParseError as exc:
        raise SourceUnavailable(f"{method}: the answer is not XML") from exc
    for element in root.iter(f"{{{_NAMESPACE}}}returnval"):
        return element
    raise SourceUnavailable(f"{method}: the answer has no result")


def parse_ticket(element: ElementTree.Element, server: str) -> Ticket:
    """Return the ticket in an answer; SourceUnavailable if it identifies no host.

    A lone host names no host: it is *server* itself.
    """

    def field(name: str) -> str | None:
        return element.findtext(f"{{{_NAMESPACE}}}{name}") or None

    token, service, port = field("sessionId"), field("service"), field("port") or _DEFAULT_PORT
    if token is None or not _TOKEN.match(token):
        raise SourceUnavailable("the server gives a ticket without a valid session ID")
    if service is None or not _SERVICE_NAME.match(service):
        raise SourceUnavailable("the server gives a ticket without a valid service")
    if not str(port).isascii() or not str(port).isdigit() or not 0 < int(port) < 1 << 16:
        raise SourceUnavailable("the server gives a ticket with an invalid port")
    thumbprint, pem = field("sslThumbprint"), field("sslCertificate")
    if thumbprint is None and pem is None:
        raise SourceUnavailable("the server gives a ticket that does not identify the host")
    digest = None if thumbprint is None else thumbprint.replace(":", "")
    if digest is not None and not _DIGEST.match(digest):
        raise SourceUnavailable("the server gives a ticket with an invalid thumbprint")
    return Ticket(
        field("host") or server,
        int(port),
        None if digest is None else bytes.fromhex(digest),
        None if pem is None else _der(pem),
        service,
        Secret(token),
    )


def _der(pem: str) -> bytes:
    try:
        return ssl.PEM_cert_to_DER_cert(pem.strip())
    except ValueError as exc:
        raise SourceUnavailable("the server gives a ticket with an invalid certificate") from exc
