"""Rules that inject a fault at the n-th call of a method or the n-th read of a disk."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

Action = Literal[
    "fault",  # fail the call with `fault`
    "missing",  # answer a property read with every property missing because of `fault`
    "task-fault",  # the call succeeds; its task fails before it does anything
    "task-fault-after",  # the call succeeds; its task fails after it has done its work
    "hold-task",  # keep the task in state 'running' until it is released
    "lost-request",  # close the connection before the call is carried out
    "lost-reply",  # carry out the call, then close the connection
    "expire-session",  # end the caller's session before the call
    "status",  # answer with HTTP `status` in place of SOAP
    "garbage",  # answer with HTTP 200 and a body that is not XML
    "delay",  # wait `seconds` before the call
    "operation",  # run `operation` with `arguments` just before the call
]
ReadAction = Literal["eio", "close", "short", "delay", "operation"]
VddkAction = Literal["error", "hang", "crash", "crash-after", "delay"]
NfcAction = Literal[
    "error",  # an ERROR record with `code` and `text`, then the usual reply with zeros
    "error-only",  # an ERROR record without the usual reply
    "text",  # answer the line `text` in place of the line of authd
    "silence",  # no answer; the connection stays open
    "close",  # send the first `offset` bytes of the answer, then close
    "reset",  # send the first `offset` bytes of the answer, then reset the connection
    "stall",  # send the first `offset` bytes of the answer, then nothing
    "drip",  # send the answer byte by byte, with `seconds` between the bytes
    "endless",  # send the answer without its end, again and again
    "delay",  # wait `seconds` before the answer
    "operation",  # run `operation` with `arguments` before the answer
    "unsolicited",  # send a record of type `code` that nobody asked for before the answer
    "trailing",  # send `offset` bytes more than the answer has
    "magic",  # wrong magic number
    "type",  # record or message of type `code`
    "op-id",  # opId of no request
    "size",  # the header states 16 bytes more than the payload has
    "huge",  # the header or text length is 2**32 - 1
    "status",  # the status of the reply is `code`
    "truncated",  # the last fragment is half as long as it says; then the connection closes
    "overlapping",  # the second fragment begins inside the first one
    "duplicated",  # the first fragment comes twice, in place of the last one
    "repeated",  # the first fragment comes again after the last one
    "missing",  # one fragment does not come; the record after it does
    "reversed",  # fragments in descending order: allowed
    "past-end",  # a fragment ends past the end of the request
    "zero-length",  # a fragment of no bytes
    "wrong-offset",  # fragments repeat another offset than that of the request
    "wrong-total",  # fragments repeat another length than that of the request
    "wrong-code",  # a compression that was not asked for
    "long",  # more bytes on the wire than the fragment has
    "short",  # fewer bytes on the wire than the fragment has
    "bomb",  # a zlib stream of 1 GiB
    "skipz-past-end",  # a run ends past the end of the fragment
    "skipz-descending",  # runs in descending order
    "skipz-length",  # the header of SkipZ states another length
    "skipz-overlap",  # runs overlap
    "garbage",  # bytes that the stated compression cannot decode
    "bitmap-short",  # a bitmap of 4 bytes too few
    "bitmap-long",  # a bitmap of 4 bytes too many
    "count",  # the reply repeats another number of chunks
]
NfcPoint = Literal[
    "greeting", "session", "banner", "thumbprint", "proxy", "tls",
    "status", "version", "aio",
    "open-session", "sock-opts", "res-pool", "open", "read", "allocated", "ddb",
    "close", "close-session",
]  # fmt: skip


class RuleError(ValueError):
    """Raised when the fields of a rule are invalid."""


@dataclass(slots=True)
class CallRule:
    """Rule for SOAP calls: acts on matching calls *at* to *at* + *times* - 1.

    Calls are counted from the moment at which the rule is added.
    """

    method: str  # WSDL name, such as CreateSnapshot_Task, or a shell pattern
    action: Action = "fault"
    fault: str = "vmodl.fault.SystemError"
    message: str = "injected by vsim"
    fields: Mapping[str, Any] = field(default_factory=dict)
    at: int = 1
    times: int = 1
    target: str = "*"  # id or name of the called object, or a shell pattern
    user: str = "*"
    status: int = 503
    seconds: float = 0.0
    operation: str = ""  # name of a method of operations.Operations
    arguments: Mapping[str, Any] = field(default_factory=dict)
    matched: int = 0  # number of matching calls so far

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise RuleError(f"invalid action {self.action!r}: use one of {get_args(Action)}")
        if (self.action == "operation") != bool(self.operation):
            raise RuleError(
                "set the field operation with the action operation, and with no other action"
            )
        if self.at < 1 or self.times < 1:
            raise RuleError("at and times must be 1 or more")


@dataclass(slots=True)
class ReadRule:
    """Rule for reads of [start, end) of a disk: acts on reads *at* to *at* + *times* - 1."""

    action: ReadAction = "eio"
    export: str = "*"  # <vm>/<snapshot>/<deviceKey>, or [datastore] path for /folder
    start: int = 0
    end: int = 1 << 62
    at: int = 1
    times: int = 1 << 62
    seconds: float = 0.0
    operation: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    matched: int = 0  # number of matching calls so far

    def __post_init__(self) -> None:
        if self.action not in get_args(ReadAction):
            raise RuleError(f"invalid action {self.action!r}: use one of {get_args(ReadAction)}")
        if (self.action == "operation") != bool(self.operation):
            raise RuleError(
                "set the field operation with the action operation, and with no other action"
            )
        if self.at < 1 or self.times < 1:
            raise RuleError("at and times must be 1 or more")


@dataclass(slots=True)
class VddkRule:
    """Rule for the VDDK library: acts on calls *at* to *at* + *times* - 1 of a function."""

    function: str  # name, such as VixDiskLib_Open, or a shell pattern
    action: VddkAction = "error"
    code: int = 1  # VDDK error code
    at: int = 1
    times: int = 1
    seconds: float = 0.0
    matched: int = 0  # number of matching calls so far

    def __post_init__(self) -> None:
        if self.action not in get_args(VddkAction):
            raise RuleError(f"invalid action {self.action!r}: use one of {get_args(VddkAction)}")
        if self.at < 1 or self.times < 1 or self.code < 1:
            raise RuleError("at, times and code must be 1 or more")


@dataclass(slots=True)
class NfcRule:
    """Rule for NFC connections: acts on answers *at* to *at* + *times* - 1 at one point."""

    point: NfcPoint
    action: NfcAction
    at: int = 1
    times: int = 1
    export: str = "*"  # <vm>/<key>, or a shell pattern; before the disk is open, only <vm>
    code: int = 11
    text: str = "injected by vsim"
    seconds: float = 0.0
    offset: int = 0
    operation: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    matched: int = 0  # number of matching answers so far

    def __post_init__(self) -> None:
        if self.point not in get_args(NfcPoint):
            raise RuleError(f"invalid point {self.point!r}: use one of {get_args(NfcPoint)}")
        if self.action not in get_args(NfcAction):
            raise RuleError(f"invalid action {self.action!r}: use one of {get_args(NfcAction)}")
        if (self.action == "operation") != bool(self.operation):
            raise RuleError(
                "set the field operation with the action operation, and with no other action"
            )
        if self.at < 1 or self.times < 1 or not 0 <= self.code < 1 << 32 or self.offset < 0:
            raise RuleError("at and times must be 1 or more, code and offset 0 or more")


Rule = CallRule | ReadRule | VddkRule | NfcRule


class FaultRules:
    """The active rules. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[CallRule] = []
        self._reads: list[ReadRule] = []
        self._vddk: list[VddkRule] = []
        self._nfc: list[NfcRule] = []

    def add(self, rule: Rule) -> None:
        """Activate a rule."""
        with self._lock:
            if isinstance(rule, CallRule):
                self._calls.append(rule)
            elif isinstance(rule, ReadRule):
                self._reads.append(rule)
            elif isinstance(rule, VddkRule):
                self._vddk.append(rule)
            else:
                self._nfc.append(rule)

    def clear(self) -> None:
        """Remove all rules."""
        with self._lock:
            self._calls.clear()
            self._reads.clear()
            self._vddk.clear()
            self._nfc.clear()

    def on_call(self, method: str, user: str, *names: str) -> list[CallRule]:
        """Count the call against every matching rule; return the rules that act."""
        with self._lock:
            return [
                rule
                for rule in self._calls
                if fnmatchcase(method, rule.method)
                and fnmatchcase(user, rule.user)
                and any(fnmatchcase(name, rule.target) for name in names)
                and _due(rule)
            ]

    def on_read(self, start: int, end: int, *names: str) -> ReadRule | None:
        """Count the read against every matching rule; return the first rule that acts."""
        with self._lock:
            due = [
                rule
                for rule in self._reads
                if rule.start < end
                and start < rule.end
                and any(name == rule.export or fnmatchcase(name, rule.export) for name in names)
                and _due(rule)
            ]
        return due[0] if due else None

    def on_vddk(self, function: str) -> VddkRule | None:
        """Count the call against every matching rule; return the first rule that acts."""
        with self._lock:
            due = [
                rule for rule in self._vddk if fnmatchcase(function, rule.function) and _due(rule)
            ]
        return due[0] if due else None

    def on_nfc(self, point: str, *names: str) -> NfcRule | None:
        """Count the answer against every matching rule; return the first rule that acts."""
        with self._lock:
            due = [
                rule
                for rule in self._nfc
                if rule.point == point
                and any(fnmatchcase(name, rule.export) for name in names)
                and _due(rule)
            ]
        return due[0] if due else None


def _due(rule: Rule) -> bool:
    rule.matched += 1
    return rule.at <= rule.matched < rule.at + rule.times
