"""Dispatch of SOAP requests: session, rules, privileges, method call."""

import re
from dataclasses import dataclass
from typing import Any

from pyVmomi import VmomiSupport

from tools.vsim.api.base import ClientSession, ManagedObject, MethodCall
from tools.vsim.api.collector import PropertyCollector
from tools.vsim.api.site import SimulatedSite
from tools.vsim.api.unread import unread_answer
from tools.vsim.fault import Fault, MoRef, not_authenticated, not_found
from tools.vsim.knobs import AnswerKnobs
from tools.vsim.rules import CallRule
from tools.vsim.soap.nfc import KINDS, RawResult
from tools.vsim.soap.reply import fault_reply, result_reply
from tools.vsim.soap.request import Request, parse_request
from tools.vsim.soap.vmodl import method_named, typed

COOKIE = re.compile(r'vmware_soap_session="?([^";\s]+)"?')
OPEN_METHODS = ("RetrieveServiceContent", "Login", "Logout")  # callable without a session
OPEN_PROPERTIES = (("ServiceInstance", "content"), ("SessionManager", "currentSession"))
ACTION = re.compile(r"urn:(vim25/[0-9A-Za-z.]+)")


class Dropped(Exception):
    """Raised to close the connection without a reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response."""

    status: int
    body: bytes
    cookie: str | None = None
    content_type: str = "text/xml; charset=utf-8"


class Dispatcher:
    """Answers SOAP requests."""

    def __init__(self, site: SimulatedSite, api_version: str) -> None:
        self._site = site
        self._newest = VmomiSupport.versionMap[f"vim25/{api_version}"]
        self.calls: list[str] = []  # names of all called methods, for tests
        self._versions = service_versions(api_version)

    @property
    def knobs(self) -> AnswerKnobs:
        """Knobs of SOAP answers."""
        return self._site.world.knobs.answer

    def versions(self) -> Reply:
        """Return the versions document. Raises Dropped.

        Rules for it use the method name vimServiceVersions.
        """
        with self._site.world.lock:
            for rule in self._site.world.knobs.rules.on_call("vimServiceVersions", "", ""):
                reply = self._early(rule, None)
                if reply:
                    return reply
        return Reply(200, self._versions)

    def answer(self, body: bytes, soap_action: str, cookie: str) -> Reply:
        """Return the reply to a request; raises Dropped to close the connection."""
        version = self._version(soap_action)
        try:
            request = parse_request(body)
        except Fault as fault:
            return Reply(500, fault_reply(fault, version))
        match = COOKIE.search(cookie)
        with self._site.world.lock:
            return self._answer(request, version, match[1] if match else None)

    def _answer(self, request: Request, version: str, key: str | None) -> Reply:
        site = self._site
        self.calls.append(request.method)
        site.world.changed.notify_all()
        session = site.sessions.active(key)
        target = site.find(request.moid, session)
        user = session.user.name if session else ""
        names = (request.moid, target.name if target else request.moid)
        rules = site.world.knobs.rules.on_call(request.method, user, *names)
        for rule in rules:
            reply = self._early(rule, session)
            if reply:
                return reply
            if rule.action == "expire-session" and session:
                session = None
                target = site.find(request.moid, None)
        call = MethodCall(request.method, version, session, task_rules=rules)
        try:
            value = self._ruled(request, target, rules)
            if value is None:
                value = self._invoke(call, request, target)
            reply = Reply(200, result_reply(request.method, value, version, request.namespace))
        except Fault as fault:
            reply = Reply(500, fault_reply(fault, version))
        if any(rule.action == "lost-reply" for rule in rules):
            raise Dropped
        if call.opened:
            cookie = f'vmware_soap_session="{call.opened.key}"; Path=/; HttpOnly; Secure; '
            return Reply(reply.status, reply.body, cookie)
        return reply

    def _early(self, rule: CallRule, session: ClientSession | None) -> Reply | None:
        world = self._site.world
        match rule.action:
            case "lost-request":
                raise Dropped
            case "status":
                return Reply(rule.status, b"vsim", content_type="text/plain")
            case "garbage":
                return Reply(200, b"<html><body>proxy error</body>", content_type="text/html")
            case "delay":
                world.pause(rule.seconds)
            case "operation":
                world.operate(rule.operation, rule.arguments)
            case "expire-session" if session:
                self._site.sessions.close(session)
        return None

    def _ruled(self, request: Request, target: ManagedObject | None, rules: list[CallRule]) -> Any:
        """Return the result that a rule dictates; None without such a rule."""
        for rule in rules:
            fault = Fault(rule.fault, rule.message, **rule.fields)
            if rule.action == "fault":
                raise fault
            if rule.action == "missing":
                return self._unread(request, target, fault)
        return None

    def _unread(self, request: Request, target: ManagedObject | None, fault: Fault) -> Any:
        collector = target or self._site.sessions.ended.get(request.moid)
        filters = collector.filters if isinstance(collector, PropertyCollector) else {}
        return unread_answer(request, filters.values(), fault)

    def _invoke(self, call: MethodCall, request: Request, target: ManagedObject | None) -> Any:
        is_fetch = request.method == "Fetch"
        path = str(request.arguments.get("prop", ""))
        is_open = (
            (request.moid, path) in OPEN_PROPERTIES if is_fetch else request.method in OPEN_METHODS
        )
        if call.session is None and not is_open:
            fault = not_authenticated(MoRef("vmodl.ManagedObject", request.moid))
            if self._site.world.knobs.session.ended_as == "missing-set":
                unread = self._unread(request, target, fault)
                if unread is not None:
                    return unread
            raise fault
        if target is None:
            kind = request.kind
            raise not_found(request.moid, "vmodl.ManagedObject" if kind in KINDS.values() else kind)
        if is_fetch:
            if call.session and not is_open:
                call.session.require("System.Read", target.ref)
            return target.read(path)
        info = method_named(request.method).info
        method = getattr(target, request.method, None)
        if method is None or not issubclass(target.kind, info.type):
            raise Fault(
                "vmodl.fault.MethodNotFound",
                f"vsim does not implement {request.method} of {target.ref.kind}.",
                receiver=target.ref,
                method=request.method,
            )
        if call.session:
            call.session.require(info.privId, target.ref)
        value = method(call, *(request.arguments.get(parameter.name) for parameter in info.params))
        if value is None or isinstance(value, RawResult):
            return value
        return typed(info.result, value)

    def _version(self, soap_action: str) -> str:
        match = ACTION.search(soap_action)
        return str(VmomiSupport.versionMap.get(match[1], self._newest) if match else self._newest)


def service_versions(api_version: str) -> bytes:
    """Return the document of /sdk/vimServiceVersions.xml: the newest and all prior versions."""
    newest = VmomiSupport.versionMap[f"vim25/{api_version}"]
    prior = [
        VmomiSupport.versionIdMap[version]
        for version in VmomiSupport.GetServiceVersions("vim25")
        if version != newest and VmomiSupport.IsChildVersion(newest, version)
    ]
    listed = "".join(f"<version>{version}</version>" for version in prior if version)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><namespaces version="1.0"><namespace>'
        f"<name>urn:vim25</name><version>{api_version}</version>"
        f"<priorVersions>{listed}</priorVersions></namespace></namespaces>"
    ).encode()


def is_known_version(api_version: str) -> bool:
    """Return whether pyVmomi knows the API version."""
    return f"vim25/{api_version}" in VmomiSupport.versionMap
