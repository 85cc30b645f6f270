"""Running cbtfs: in this process, or in one of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Output and exit code of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


Run = Callable[..., CommandResult]


def runner(repository: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs one command on *repository* in this process."""

    def run(*arguments: str | Path) -> CommandResult:
        capsys.readouterr()
        code = main(["--repo", str(repository), *map(str, arguments)])
        captured = capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return run


def process(*arguments: str | Path) -> CommandResult:
    """Run `python -m cbtfs` with *arguments*.

    The environment is that of os.environ: readline, which pytest imports, sets COLUMNS behind it.
    """
    done = subprocess.run(
        [sys.executable, "-m", "cbtfs", *map(str, arguments)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def read_terminal(main: int) -> str:
    """Return what is written to a pseudo-terminal until its other side is closed."""
    output = b""
    while True:
        try:
            output += os.read(main, 1 << 16)
        except OSError:  # EIO: the other side is closed
            return output.decode()
