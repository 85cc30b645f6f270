"""The dialogue of the authentication daemon, which ends with the choice of clear text or TLS."""

from typing import Final

from tools.vsim.api.nfc import NfcTickets, Ticket
from tools.vsim.knobs import NfcKnobs
from tools.vsim.nfc.channel import Channel, Ended
from tools.vsim.nfc.faults import Faults

LOGIN: Final = "530 Login incorrect"
NEEDS_LOGIN: Final = "530 Please login with USER and PASS"
INVALID: Final = "501 Invalid arguments"
TAG: Final = 16
"""Longest tag of THUMBPRINT_SHA2."""


def greeting(knobs: NfcKnobs) -> str:
    """Return the first line, which states the capabilities."""
    words = [
        "SSL Required", "ServerDaemonProtocol:SOAP", "MKSDisplayProtocol:VNC ",
        "VMXARGS supported",
    ]  # fmt: skip
    words += ["NFCSSL supported/t"] * knobs.nfcssl + ["SHA256 supported"] * knobs.sha256
    return f"220 VMware Authentication Daemon Version 1.10: {', '.join(words)}"


class Dialogue:
    """The lines between the first TLS handshake and NFC."""

    def __init__(
        self, channel: Channel, faults: Faults, tickets: NfcTickets, knobs: NfcKnobs, host: str
    ) -> None:
        """*host* is the name of the host that speaks; empty for the common server."""
        self._host = host
        self._channel = channel
        self._faults = faults
        self._tickets = tickets
        self._knobs = knobs
        self.ticket: Ticket | None = None
        self.tag = ""
        self.is_ssl = False

    def run(self, service: str, thumbprint: str) -> None:
        """Answer until PROXY succeeds.

        *service* is the one in tickets, *thumbprint* the SHA-256 that step 3 answers. Raises Ended.
        """
        while True:
            command, _, argument = self._channel.line().partition(" ")
            match command:
                case "SESSION":
                    self.ticket = self._tickets.redeem(argument, self._host)
                    if self.ticket is not None:
                        self._faults.names = [self.ticket.machine]
                    rule = self._faults.find("session")
                    if rule is not None:  # the real daemon does not answer
                        self._faults.send(rule, f"{rule.text}\r\n".encode())
                case "BANNER":
                    self._faults.line("banner", "220 vsim")
                case "THUMBPRINT_SHA2":
                    self._faults.line("thumbprint", self._thumbprint(argument, thumbprint))
                case "PROXY":
                    answer = self._proxy(argument, service)
                    self._faults.line("proxy", answer)
                    if not answer.startswith("200"):
                        raise Ended(answer)
                    return
                case _:
                    self._faults.line("banner", NEEDS_LOGIN)

    def _thumbprint(self, tag: str, thumbprint: str) -> str:
        if not self._knobs.sha256:
            return NEEDS_LOGIN
        if not 0 < len(tag) <= TAG or ":" in tag or " " in tag:
            return INVALID
        self.tag = tag
        return f"200 {thumbprint}"

    def _proxy(self, asked: str, service: str) -> str:
        if self.ticket is None:
            return LOGIN
        if asked == f"{service}ssl" and self._knobs.nfcssl:
            self.is_ssl = True
            return "200 Connect ha-nfcssl"
        return "200 Connect ha-nfc" if asked == service else INVALID
