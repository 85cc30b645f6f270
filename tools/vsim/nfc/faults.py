"""Application of rules to the answers of one connection."""

from typing import Final

from tools.vsim.model.world import World
from tools.vsim.nfc.channel import Channel, Ended
from tools.vsim.nfc.wire import HEADER, MAGIC, PLAIN, error_record, record
from tools.vsim.rules import NfcRule

HUGE: Final = (1 << 32) - 1
ENDLESS: Final = 1 << 22
"""Bytes after which an endless answer ends."""


class Faults:
    """The rules as one connection meets them."""

    def __init__(self, world: World, channel: Channel) -> None:
        self._world = world
        self._channel = channel
        self.names = ["-"]  # names that the field `export` matches

    def find(self, point: str) -> NfcRule | None:
        """Return the rule for the answer at *point*; wait, and run its operation."""
        rule = self._world.knobs.rules.on_nfc(point, *self.names)
        if rule is None:
            return None
        if rule.action == "operation":
            self._world.operate(rule.operation, rule.arguments)
        elif rule.action == "delay":
            self._world.pause(rule.seconds)
        return rule

    def send(self, rule: NfcRule | None, data: bytes) -> None:
        """Send an answer as the rule says; raises Ended if the connection is over."""
        if rule is None:
            self._channel.send(data)
            return
        match rule.action:
            case "silence":
                self._channel.hold()
            case "close" | "reset" | "stall":
                if rule.offset:
                    self._channel.send(data[: rule.offset])
                if rule.action == "stall":
                    self._channel.hold()
                elif rule.action == "reset":
                    self._channel.reset()
                raise Ended("closed by a rule")
            case "drip":
                self._channel.drip(data, rule.seconds)
            case "endless":
                body = data.rstrip(b"\r\n") or b" "
                self._channel.send(body * (ENDLESS // len(body)))
                self._channel.hold()
            case "trailing":
                self._channel.send(data + bytes(rule.offset or 1))
            case _:
                self._channel.send(data)

    def line(self, point: str, text: str) -> None:
        """Answer a line of authd."""
        rule = self.find(point)
        if rule is not None and rule.action == "text":
            text = rule.text
        self.send(rule, f"{text}\r\n".encode())

    def record(
        self, rule: NfcRule | None, kind: int, op_id: int, payload: bytes, extra: bytes = b""
    ) -> None:
        """Answer a request with a record."""
        if rule is not None and rule.action in ("error", "error-only"):
            self._channel.send(error_record(op_id, rule.code, rule.text))
            if rule.action == "error":
                self._channel.send(record(kind, op_id, bytes(len(payload))))
            return
        if rule is not None and rule.action == "unsolicited":
            self._channel.send(record(rule.code, HUGE, bytes(16)))
        self.send(rule, spoiled(rule, kind, op_id, payload) + extra)


def spoiled(rule: NfcRule | None, kind: int, op_id: int, payload: bytes) -> bytes:
    """Return header and payload of a record, wrong in the way of the rule."""
    magic, size = MAGIC, len(payload)
    match rule.action if rule else "":
        case "magic":
            magic ^= 1
        case "op-id":
            op_id += 1 << 20
        case "size":
            size += 16
        case "huge":
            size = HUGE
        case "type":
            kind = rule.code if rule else PLAIN
        case "status":
            payload = (rule.code if rule else 0).to_bytes(8, "little") + payload[8:]
    return HEADER.pack(magic, kind, size, op_id) + payload
