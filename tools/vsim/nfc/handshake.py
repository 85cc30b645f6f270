"""The classic handshake: messages of 264 bytes, until the client asks for AIO records."""

import struct
from typing import Final

from tools.vsim.knobs import NfcKnobs
from tools.vsim.nfc import wire
from tools.vsim.nfc.channel import Channel, Ended
from tools.vsim.nfc.faults import HUGE, Faults

TRAILER: Final = 1024
"""Longest name of a client or operation."""


class Handshake:
    """The server's side. Accepts trailers together with their message or apart."""

    def __init__(self, channel: Channel, faults: Faults, knobs: NfcKnobs) -> None:
        self._channel = channel
        self._faults = faults
        self._knobs = knobs
        self.tag = ""

    def run(self) -> None:
        """Answer until AIO begins; raises Ended."""
        while True:
            received = self._channel.take(wire.CLASSIC)
            kind, first, second = struct.unpack_from("<III", received)
            match kind:
                case wire.CLIENT_RANDOM:
                    self.tag = received[4:20].rstrip(b"\0").decode("utf-8", "replace")
                case wire.END_OF_TAG:
                    if self._knobs.early_status:
                        self._status()
                case wire.VERSION:
                    if not self._knobs.early_status:
                        self._status()
                    self._answer("version", wire.message(wire.VERSION, self._knobs.version, 0))
                case wire.CONNECTION:
                    if max(first, second) > TRAILER:
                        raise Ended("a name is too long")
                    self._channel.take(first + second)
                case wire.FEATURES:
                    pass
                case wire.AIO:
                    self._answer("aio", wire.message(wire.AIO))
                    return
                case _:
                    self._channel.send(wire.message(wire.SESSION_COMPLETE))
                    raise Ended(f"message {kind} in the handshake")

    def _status(self) -> None:
        self._answer("status", wire.message(wire.STATUS, 1, at=16))

    def _answer(self, point: str, data: bytes) -> None:
        rule = self._faults.find(point)
        if rule is not None and rule.action in ("error", "error-only"):
            self._channel.send(wire.classic_error(rule.code, rule.text))
            raise Ended("refused by a rule")
        if rule is not None and rule.action == "huge":
            data = wire.message(wire.CLASSIC_ERROR, 1, rule.code, HUGE)
        elif rule is not None and rule.action == "type":
            data = struct.pack("<I", rule.code) + data[4:]
        self._faults.send(rule, data)
