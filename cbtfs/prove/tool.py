"""Run a program that tests a volume: bounded in time and output, and killed with this process."""

import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.core.names import printable
from cbtfs.prove.confined import FAILED, FAILED_CODE, Confinement
from cbtfs.prove.part import Stopped, Untestable

_POLL_SECONDS: Final = 0.02
_OUTPUT_BYTES: Final = 64 << 10
_MAX_OUTPUT_BYTES: Final = 64 << 20
"""Output after which a program is killed: a damaged file system can produce lines without end."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The end of a program."""

    code: int
    """Negative for a signal."""
    output: str
    """Its output; the middle of a long one is left out."""

    @property
    def lines(self) -> list[str]:
        """The last lines that are not empty."""
        return [printable(line.strip()) for line in self.output.splitlines() if line.strip()]


def find_tool(name: str, package: str) -> str:
    """Return the path of a program; Untestable names its package if it is missing."""
    program = process.find_program(name)
    if program is None:
        raise Untestable(f"the program {name} is missing: install the package {package}")
    return program


def run_tool(
    command: Sequence[str | Path],
    stop: threading.Event,
    seconds: float,
    confinement: Confinement | None = None,
    **variables: str,
) -> Ran:
    """Run a program, whose first word is an absolute path, for at most *seconds*.

    *confinement*: the program runs in a sandbox, with these files.

    Raises:
        Untestable: it cannot be confined, did not end in time, or wrote too much.
        Stopped: *stop* was set.
    """
    name = Path(command[0]).name
    deadline = time.monotonic() + seconds
    with (
        tempfile.TemporaryFile() as output,
        process.start(
            process.ends_with_parent(command)
            if confinement is None
            else confinement.command(command),
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=process.environment(LC_ALL="C.UTF-8", **variables),
        ) as child,
    ):
        try:
            while child.poll() is None:
                if stop.wait(_POLL_SECONDS):
                    raise Stopped
                if time.monotonic() > deadline:
                    raise Untestable(f"{name} did not end in {seconds:.0f} s")
                if output.seek(0, 2) > _MAX_OUTPUT_BYTES:
                    raise Untestable(f"{name} wrote more than {_MAX_OUTPUT_BYTES >> 20} MiB")
        except BaseException:
            child.kill()
            raise
        end = output.seek(0, 2)
        output.seek(0)
        text = output.read(_OUTPUT_BYTES)
        output.seek(max(end - _OUTPUT_BYTES, len(text)))
        text += output.read()
        ran = Ran(child.returncode, text.decode(errors="replace"))
        if ran.code == FAILED_CODE and ran.output.startswith(FAILED):
            raise Untestable(f"{name} did not run: {ran.lines[0].removeprefix('cbtfs: ')}")
        return ran
