"""Rules: what goes wrong at the n-th call of a method or the n-th read of a disk."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

Action = Literal[
    "fault",  # the call fails with `fault`
    "missing",  # a property read succeeds, and reports each property as missing for `fault`
    "task-fault",  # the call succeeds, its task ends in error before it did anything
    "task-fault-after",  # the same, after the task did its work
    "hold-task",  # the task stays 'running' until it is released
    "lost-request",  # the connection closes, nothing was done
    "lost-reply",  # the call is carried out, then the connection closes
    "expire-session",  # the caller's session ends before the call
    "status",  # an HTTP answer with `status` instead of SOAP
    "garbage",  # an HTTP 200 that is not XML
    "delay",  # `seconds` before the call
    "operation",  # `operation` with `arguments` happens just before the call
]
ReadAction = Literal["eio", "close", "short", "delay", "operation"]
VddkAction = Literal["error", "hang", "crash", "crash-after", "delay"]


class RuleError(ValueError):
    """Not a rule."""


@dataclass(slots=True)
class CallRule:
    """Acts on matching calls number *at* .. *at* + *times* - 1, counted since it was added."""

    method: str  # wsdl name, such as CreateSnapshot_Task; * and ? match
    action: Action = "fault"
    fault: str = "vmodl.fault.SystemError"
    message: str = "injected by vsim"
    fields: Mapping[str, Any] = field(default_factory=dict)
    at: int = 1
    times: int = 1
    target: str = "*"  # id or name of the object that is called
    user: str = "*"
    status: int = 503
    seconds: float = 0.0
    operation: str = ""  # of operations.Operations
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seen: int = 0

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise RuleError(f"action is one of {get_args(Action)}, not {self.action!r}")
        if (self.action == "operation") != bool(self.operation):
            raise RuleError("operation goes with the action of that name")
        if self.at < 1 or self.times < 1:
            raise RuleError("at and times are at least 1")


@dataclass(slots=True)
class ReadRule:
    """Acts on reads number *at* .. *at* + *times* - 1 that touch [start, end) of a disk."""

    action: ReadAction = "eio"
    export: str = "*"  # <vm>/<snapshot>/<deviceKey>, or [datastore] path for /folder
    start: int = 0
    end: int = 1 << 62
    at: int = 1
    times: int = 1 << 62
    seconds: float = 0.0
    operation: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seen: int = 0

    def __post_init__(self) -> None:
        if self.action not in get_args(ReadAction):
            raise RuleError(f"action is one of {get_args(ReadAction)}, not {self.action!r}")
        if (self.action == "operation") != bool(self.operation):
            raise RuleError("operation goes with the action of that name")
        if self.at < 1 or self.times < 1:
            raise RuleError("at and times are at least 1")


@dataclass(slots=True)
class VddkRule:
    """Acts on calls number *at* .. *at* + *times* - 1 of a function of the VDDK library."""

    function: str  # such as VixDiskLib_Open; * and ? match
    action: VddkAction = "error"
    code: int = 1  # an error of VDDK's
    at: int = 1
    times: int = 1
    seconds: float = 0.0
    seen: int = 0

    def __post_init__(self) -> None:
        if self.action not in get_args(VddkAction):
            raise RuleError(f"action is one of {get_args(VddkAction)}, not {self.action!r}")
        if self.at < 1 or self.times < 1 or self.code < 1:
            raise RuleError("at, times and code are at least 1")


class FaultRules:
    """The rules in force. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[CallRule] = []
        self._reads: list[ReadRule] = []
        self._vddk: list[VddkRule] = []

    def add(self, rule: CallRule | ReadRule | VddkRule) -> None:
        with self._lock:
            if isinstance(rule, CallRule):
                self._calls.append(rule)
            elif isinstance(rule, ReadRule):
                self._reads.append(rule)
            else:
                self._vddk.append(rule)

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()
            self._reads.clear()
            self._vddk.clear()

    def on_call(self, method: str, user: str, *names: str) -> list[CallRule]:
        """Count the call against every rule that matches; return those that act now."""
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
        """Count the read against every rule that matches; return the first that acts now."""
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
        """Count the call against every rule that matches; return the first that acts now."""
        with self._lock:
            due = [
                rule for rule in self._vddk if fnmatchcase(function, rule.function) and _due(rule)
            ]
        return due[0] if due else None


def _due(rule: CallRule | ReadRule | VddkRule) -> bool:
    rule.seen += 1
    return rule.at <= rule.seen < rule.at + rule.times
