"""A writer of fio whose blocks name their pass and offset, and the verification of its writes."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.crash.verify import Violation

_END_SECONDS: Final = 60.0
_FIRST_BYTES: Final = 16 << 10
_POLL_SECONDS: Final = 0.005
_JOB: Final = "patterned"


@dataclass(slots=True)
class PatternedWriter:
    """Writes each block of a file once, synchronously, until it is stopped or meets an error."""

    file: Path
    size: int
    folder: Path
    """Directory for fio's list of completed writes."""
    passes: int = 0
    verified: int = 0
    """Completed writes that were read again."""

    def _command(self, *options: str) -> list[str]:
        return [
            *("fio", f"--name={_JOB}", "--thread", f"--filename={self.file}"),
            *(f"--size={self.size}", "--bs=4k", "--rw=randwrite", "--ioengine=psync", "--sync=1"),
            # A checksum alone would let a block of an earlier pass count as written. With its
            # default, randrepeat, fio would ignore the seed.
            *("--verify=pattern", f"--verify_pattern=0x{self.passes:08x}%o"),
            *("--randrepeat=0", f"--randseed={self.passes}", f"--aux-path={self.folder}"),
            *("--output-format=json", *options),
        ]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write during the block, in a new order and with new content."""
        self.passes += 1
        self._state.unlink(missing_ok=True)
        command = self._command("--do_verify=0", "--verify_state_save=1")
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as fio:
            try:
                _wait_for_writes(fio)
                yield
            finally:
                with contextlib.suppress(ProcessLookupError):
                    fio.terminate()
                fio.communicate(timeout=_END_SECONDS)

    @property
    def _state(self) -> Path:
        return self.folder / f"local-{_JOB}-0-verify.state"

    def verify(self) -> None:
        """Raise Violation unless all writes that fio completed in its last pass are in the file."""
        if not self._state.exists():  # It was stopped before its first write.
            return
        command = self._command("--verify_only=1", "--verify_state_load=1", "--verify_fatal=1")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        if done.returncode:
            raise Violation(f"fio finds wrong blocks: {output[-2000:]}")
        job = json.loads(output[output.index("{") : output.rindex("}") + 1])["jobs"][0]
        self.verified += job["read"]["total_ios"]


def _wait_for_writes(fio: subprocess.Popen[str]) -> None:
    """Wait until fio has written a few blocks, or has ended."""
    path = Path(f"/proc/{fio.pid}/io")
    with contextlib.suppress(OSError):
        while fio.poll() is None:
            counts = dict(line.split(": ") for line in path.read_text().splitlines())
            if int(counts["wchar"]) >= _FIRST_BYTES:
                return
            time.sleep(_POLL_SECONDS)
