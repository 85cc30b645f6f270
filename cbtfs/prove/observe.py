"""Observation of a guest that boots, and its verdict.

The screen alone proves little: a guest that speaks on its serial port leaves it dark. So the serial
port, the guest agent, the screen and the reads of the disks are observed together.
"""

import re
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from cbtfs.core.names import printable
from cbtfs.errors import MountFailed
from cbtfs.prove.messages import emergency_in, has_no_timer, panic_in
from cbtfs.prove.part import Refuted, Stopped
from cbtfs.prove.picture import load_text, read_picture
from cbtfs.prove.serial_log import load_tail
from cbtfs.prove.tool import run_tool
from cbtfs.qemu.guest import Guest
from cbtfs.qemu.machine import Consoles
from cbtfs.qemu.qmp import QmpEnded

Verdict = Literal["agent", "script", "prompt", "settled", "stuck", "emergency", "panic", "no-boot"]
VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)
"""Best first."""
ACCEPTABLE: Final = VERDICTS[:4]
PROMPT: Final = r"(?m)(?:^|[\w.-]+ )login: *\Z"
QUIET_SECONDS: Final = 20.0
"""Time without reads and without a change of the screen after which a guest is at rest."""

_POLL_SECONDS: Final = 0.5
_LEAST_BYTES: Final = 30 << 20
"""Minimum of reads of a guest that has loaded its system."""
_BOOT_BYTES: Final = 4 << 20
"""A firmware that finds nothing to boot reads less, and so does a small boot loader."""
_LIT: Final = 0.001
"""Minimum share of bytes of the screen that are not black."""
_CURSOR: Final = 0.0002
"""Share of the bytes of a screen that may change at rest: a cursor blinks."""
_PING: Final = b'{"execute": "guest-ping"}\n'


class Starved(MountFailed):
    """Raised when this host was too busy to emulate the guest: its end says nothing."""


@dataclass(frozen=True, slots=True)
class BootOptions:
    """How a guest is booted, and which verdict passes."""

    least: Verdict = "prompt"
    prompt: str = PROMPT
    """Regular expression for the end of the serial output."""
    seconds: float = 600.0
    script: Path | None = None
    """Program that tests the guest: it gets the sockets of the serial port and of the agent."""
    evidence: Path | None = None
    """Directory for the screenshot and the serial output."""

    def passes(self, verdict: Verdict) -> bool:
        return VERDICTS.index(verdict) <= VERDICTS.index(self.least)

    @property
    def wanted(self) -> str:
        """The verdicts that pass."""
        has_script = self.script is not None
        return " or ".join(v for v in VERDICTS if self.passes(v) and (has_script or v != "script"))


@dataclass(slots=True)
class Observer:
    """The observer of one guest."""

    guest: Guest
    consoles: Consoles
    options: BootOptions
    folder: Path
    stop: threading.Event
    is_emulated: bool = False
    """Whether the guest runs without KVM."""
    best: tuple[Verdict, str] | None = None
    reads: int = 0
    screen: bytes = b""
    text: str = ""
    """Text on the screen."""
    changed: float = field(default_factory=time.monotonic)
    """Time of the last read or change of the screen."""
    agent: socket.socket | None = None
    is_scripted: bool = False

    def wait(self, deadline: float) -> tuple[Verdict, str]:
        """Return the verdict: as soon as it passes or is final, else at *deadline*.

        Raises:
            Refuted: the script, which must succeed, failed.
            Starved: the kernel failed because of the emulation.
            Stopped: the command ends.
        """
        try:
            while time.monotonic() < deadline:
                final = self._look()
                if final is not None:
                    return final
                if self.best is not None and self.options.passes(self.best[0]):
                    return self.best
                if self.stop.wait(_POLL_SECONDS):
                    raise Stopped("stopped")
            why = f"no {self.options.wanted} within {self.options.seconds:.0f} s"
        except QmpEnded:
            why = "the guest powered off"
            # The last lines may have arrived after the last look.
            final = self._read_serial()
            if final is not None:
                return final
        finally:
            self._close_agent()
        return self.best or self._no_boot() or ("stuck", f"{why}{self._last_line()}")

    def _look(self) -> tuple[Verdict, str] | None:
        """Observe the guest once; return a verdict that is final."""
        for _ in self.guest.qmp.events():
            pass
        final = self._read_serial()
        if final is not None:
            return final
        if self._has_agent():
            self._reach("agent", "the guest agent answers")
        self._look_at_disks_and_screen()
        final = self._judge_panic(self.text)
        if final is not None:
            return final
        self._run_script()
        return self._judge_rest()

    def _reach(self, verdict: Verdict, text: str) -> None:
        if self.best is None or VERDICTS.index(verdict) < VERDICTS.index(self.best[0]):
            self.best = verdict, text

    def serial(self) -> str:
        """Return the end of the output of the serial port."""
        log = self.consoles.serial_log
        return "" if log is None else load_tail(log)

    def _last_line(self) -> str:
        lines = [line.strip() for line in self.serial().splitlines() if line.strip()]
        return f"; its last line is {printable(lines[-1][:80])!r}" if lines else ""

    def _read_serial(self) -> tuple[Verdict, str] | None:
        text = self.serial()
        final = self._judge_panic(text)
        if final is not None:
            return final
        if message := emergency_in(text):
            return "emergency", message
        if re.search(self.options.prompt, text):
            self._reach("prompt", "the serial port shows the prompt")
        return None

    def _judge_panic(self, text: str) -> tuple[Verdict, str] | None:
        if self.is_emulated and has_no_timer(text):
            raise Starved(
                "the emulation was too slow for the timer of the guest: this host is too busy; "
                "try again later, or use KVM"
            )
        message = panic_in(text)
        return None if message is None else ("panic", message)

    def _has_agent(self) -> bool:
        """Return whether the guest agent has answered a ping."""
        try:
            if self.agent is None:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    connection.connect(str(self.consoles.agent))
                    connection.sendall(_PING)
                except OSError:
                    connection.close()
                    raise
                connection.setblocking(False)
                self.agent = connection
            return b'"return"' in self.agent.recv(4096)
        except OSError:
            return False

    def _close_agent(self) -> None:
        if self.agent is not None:
            self.agent.close()
            self.agent = None

    def _look_at_disks_and_screen(self) -> None:
        devices = self.guest.qmp.execute("query-blockstats")
        reads = sum(device["stats"]["rd_bytes"] for device in devices)
        path = self.folder / "screen.ppm"
        self.guest.qmp.execute("screendump", {"filename": str(path)})
        screen = read_picture(path)
        if reads != self.reads or not _is_equal(screen, self.screen):
            self.changed = time.monotonic()
        self.reads, self.screen = reads, screen
        self.text = load_text(self.guest, screen, self.folder)

    def _judge_rest(self) -> tuple[Verdict, str] | None:
        """Judge a guest that reads nothing and does not change its screen."""
        if time.monotonic() - self.changed < QUIET_SECONDS:
            return None
        if message := emergency_in(self.text):
            return "emergency", message
        lit = 1 - self.screen.count(0) / max(len(self.screen), 1)
        # A guest that uses its serial port shows its prompt there when it is ready.
        if self.reads >= _LEAST_BYTES and lit >= _LIT and not self.serial():
            self._reach("settled", f"at rest after {self.reads >> 20} MiB of reads")
        return None if self.best is not None else self._no_boot()

    def _no_boot(self) -> tuple[Verdict, str] | None:
        if self.reads >= _BOOT_BYTES or self.serial():
            return None
        return "no-boot", f"the firmware has read {self.reads >> 10} KiB and started nothing"

    def _run_script(self) -> None:
        """Run the script once, as soon as the guest has reached a verdict that passes."""
        script = self.options.script
        if script is None or self.is_scripted or self.best is None:
            return
        self.is_scripted = True
        self._close_agent()
        command = [script.absolute(), self.consoles.serial, self.consoles.agent or Path()]
        done = run_tool(command, self.stop, self.options.seconds)
        result = f"{printable(script.name)} exits with {done.code}"
        if done.code == 0:
            self._reach("script", result)
        elif self.options.least == "script":
            raise Refuted(f"{result}: {done.lines[-1]}" if done.lines else result)
        verdict, text = self.best
        if verdict != "script":
            self.best = verdict, f"{text}; {result}"


def _is_equal(screen: bytes, other: bytes) -> bool:
    """Return whether two screens are equal but for a cursor."""
    if len(screen) != len(other):
        return False
    different = int.from_bytes(screen, "big") ^ int.from_bytes(other, "big")
    unchanged = different.to_bytes(len(screen), "big").count(0)
    return len(screen) - unchanged <= len(screen) * _CURSOR
