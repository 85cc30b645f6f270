"""The fault matrix of NFC as data: how the simulator misbehaves, and what a client may do.

A client that reads a whole disk meets one case at a time. RIGHT: it returns exactly the bytes of
the snapshot. REFUSED: it returns nothing and reports a failure (exit 30). EITHER: one of the two,
as it depends on what the client asks for. Wrong bytes are never allowed. `every` cases act on each
connection; a client that tries again gets no further. Cases with `once` act one time only: a client
that gets a new ticket and a new connection returns the right bytes, a client without retries fails.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tools.vsim import Simulator

Outcome = Literal["right", "refused", "either"]
EVERY: Final = 1 << 30


@dataclass(frozen=True)
class Case:
    """One case: knobs of group `nfc`, or one rule."""

    name: str
    outcome: Outcome
    knobs: dict[str, Any] = field(default_factory=dict)
    rule: dict[str, Any] = field(default_factory=dict)
    waits: bool = False  # the client has to wait for its timeout
    code: int | None = None  # compression that the client must ask for
    mode: str = "ssl"

    def apply(self, sim: Simulator, *, once: bool = False, **more: Any) -> None:
        """Set the knobs and add the rule; *more* replaces fields of the rule."""
        if self.knobs:
            sim.do.set_knobs("nfc", **self.knobs)
        if self.rule:
            sim.do.on_nfc(**{"times": 1 if once else EVERY, **self.rule, **more})


def _rule(point: str, action: str, outcome: Outcome = "refused", **fields: Any) -> Case:
    options = {name: fields.pop(name) for name in ("waits", "code_asked") if name in fields}
    detail = "".join(f" {value}" for value in fields.values())
    return Case(
        f"{point}: {action}{detail}",
        outcome,
        rule={"point": point, "action": action, **fields},
        waits=options.get("waits", False),
        code=options.get("code_asked"),
    )


def _knob(outcome: Outcome, **knobs: Any) -> Case:
    name = ", ".join(f"{key}={value}" for key, value in knobs.items())
    return Case(name, outcome, knobs=knobs)


AUTHD: Final = ("greeting", "banner", "thumbprint", "proxy")
HANDSHAKE: Final = ("status", "version", "aio")
NEEDED: Final = ("open-session", "sock-opts", "res-pool", "open", "read")
ASKED: Final = ("allocated", "ddb")
"""Requests that a client need not send."""
CLOSING: Final = ("close", "close-session")
"""The bytes are complete by then."""
HEADER: Final = ("magic", "type", "op-id", "size", "huge")
FRAGMENTS: Final = (
    "status", "truncated", "overlapping", "duplicated", "repeated", "past-end", "zero-length",
    "wrong-offset", "wrong-total", "wrong-code", "long", "short",
)  # fmt: skip
SKIPZ: Final = ("skipz-past-end", "skipz-descending", "skipz-length", "skipz-overlap", "garbage")


def _authd() -> Iterator[Case]:
    for point in AUTHD:
        yield _rule(point, "text", text="530 Login incorrect")
        yield _rule(point, "close")
        yield _rule(point, "reset", offset=3)
        yield _rule(point, "silence", waits=True)
        yield _rule(point, "stall", offset=3, waits=True)
        yield _rule(point, "endless")
        yield _rule(point, "drip", "right")
    yield _rule("session", "text", text="530 Login incorrect")
    yield _rule("tls", "trailing")
    yield _rule("tls", "close")


def _handshake() -> Iterator[Case]:
    for point in HANDSHAKE:
        yield _rule(point, "error", code=5)
        yield _rule(point, "huge", waits=True)
        for kind in (4, 99):
            yield _rule(point, "type", code=kind)
        yield _rule(point, "close", offset=100)
        yield _rule(point, "reset")
        yield _rule(point, "silence", waits=True)
        yield _rule(point, "drip", "right")
    yield _rule("aio", "trailing", offset=16)


def _records() -> Iterator[Case]:
    for point in (*NEEDED, *ASKED, *CLOSING):
        failed: Outcome = "refused" if point in NEEDED else "either"
        for action in ("error", "error-only", *HEADER):
            waits = action in ("error-only", "size")
            yield _rule(
                point, action, failed, waits=waits, **({"code": 99} if action == "type" else {})
            )
        yield _rule(point, "unsolicited", failed, code=17)
        yield _rule(point, "close", failed, offset=8)
        yield _rule(point, "reset", failed, offset=20)
        yield _rule(point, "silence", failed, waits=True)
        yield _rule(point, "stall", failed, offset=16, waits=True)
        yield _rule(point, "delay", "right", seconds=0.01)
        if point != "read":
            yield _rule(point, "drip", "right")
            yield _rule(point, "trailing", failed, offset=16)
    for action in ("bitmap-short", "bitmap-long", "count"):
        yield _rule("allocated", action, "either", waits=action == "bitmap-short")
    yield _rule("open", "status")


def _reads() -> Iterator[Case]:
    for action in FRAGMENTS:
        yield _rule("read", action)
    yield _rule("read", "missing", waits=True)
    yield _rule("read", "reversed", "right")
    yield _rule("read", "close", offset=300_000)
    yield _rule("read", "reset", offset=300_000)
    yield _rule("read", "stall", offset=300_000, waits=True)
    yield _rule("read", "bomb", code_asked=1)
    yield _rule("read", "garbage", code_asked=1)
    for action in SKIPZ:
        yield _rule("read", action, code_asked=3)
    for code in (0, 1, 3):
        yield Case(f"read: code {code}", "right", code=code)


def _shapes() -> Iterator[Case]:
    for where in ("first", "second", "digest"):
        yield _knob("refused", certificate=where)
    yield _knob("refused", pin="wrong")
    yield _knob("refused", pin="none")
    yield _knob("right", pin="certificate")
    yield _knob("right", host=False)
    yield _knob("right", tls="1.3")
    yield _knob("right", sha256=False)
    yield _knob("refused", nfcssl=False)
    yield _knob("right", early_status=False)
    yield _knob("refused", version=2)
    yield _knob("refused", size_delta=512)
    yield _knob("refused", size_delta=-512)
    yield _knob("refused", sector=4096)
    yield _knob("right", sector=0)
    yield _knob("either", allocation="unsupported")
    yield _knob("right", allocation="all")
    yield _knob("either", budget=512 << 10)
    yield _knob("refused", budget=0)
    yield _knob("refused", max_sessions=0)
    yield _knob("right", buffer=512, shuffle=False)
    yield _knob("right", buffer=2 << 20)
    yield _knob("right", codes="")
    yield _knob("refused", ticket_seconds=1e-9)
    yield Case("clear", "right", mode="clear")


def _events() -> Iterator[Case]:
    """Things that happen while the disk is read; they cannot be undone by a retry."""
    host = {"operation": "host", "arguments": {"host": "127.0.0.1", "maintenance": True}}
    yield _event("host enters maintenance", "read", host)
    yield _event("host disconnects", "open", {
        "operation": "host", "arguments": {"host": "127.0.0.1", "connection": "notResponding"},
    })  # fmt: skip
    removed = {"operation": "remove_snapshot", "arguments": {"snapshot": "frozen"}}
    yield _event("snapshot vanishes", "read", removed)
    yield _event("snapshot vanishes, merged bytes", "read", removed, removed="merged")


def _event(name: str, point: str, operation: dict[str, Any], **knobs: Any) -> Case:
    rule = {"point": point, "action": "operation", "times": 1, **operation}
    return Case(name, "refused", knobs=knobs, rule=rule)


MATRIX: Final = (*_authd(), *_handshake(), *_records(), *_reads(), *_shapes())
"""Cases that leave the simulator as it was."""
EVENTS: Final = tuple(_events())
"""Cases that change machine or host: each needs a simulator of its own."""
