"""A copy of the checkout with its own environment, in which tests of mutants run.

Tests run in separate process and mount namespaces, which remove the mounts, processes and files
that a mutant leaves behind. The checkout itself is never modified.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tools.mutate import examples

ROOT: Final = Path(__file__).resolve().parents[2]
_COPIED: Final = (
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "cbtfs", "contrib", "docs",
    "pyproject.toml", "setup.py", "tests", "tools",
)  # fmt: skip
_SCRATCH_BYTES: Final = 6 << 30
_EXAMPLES: Final = 30
"""Number of examples per property; a mutant that needs more counts as a survivor."""
_DATA_BYTES: Final = 6 << 30
"""Memory limit of a process, for mutants that append in an endless loop."""
_COVERAGE: Final = (
    'import os; "COVERAGE_PROCESS_START" in os.environ and __import__("coverage").process_startup()'
)
_RUN: Final = """
mount -t tmpfs -o size="$SCRATCH" cbtfs-mutate "$TMPDIR" || exit 99
prlimit --pid $$ --data="$DATA" || exit 99
timeout --kill-after=5 "$LIMIT" "$@"
exit $?
"""


class Sandbox:
    """A new copy of the checkout in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ".venv" / "bin" / "python"
        self._server: subprocess.Popen[str] | None = None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns("__pycache__", ".hypothesis", "benchmarks")
                shutil.copytree(source, folder / name, ignore=ignore, symlinks=True)
            else:
                shutil.copy2(source, folder / name)
        (folder / "docs" / "benchmarks").symlink_to(ROOT / "docs" / "benchmarks")
        (folder / "tmp").mkdir()
        self._make_environment()
        # Hash-based .pyc files: size and time of a mutant can equal those of the original.
        self._python("-m", "compileall", "-q", "--invalidation-mode=checked-hash", "cbtfs", "tools")

    def _make_environment(self) -> None:
        """Create an environment with the packages of this one, except its editable install."""
        venv = self.folder / ".venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        packages = Path(sysconfig.get_paths()["purelib"])
        site = venv / packages.relative_to(sys.prefix)
        (site / "sandbox.pth").write_text(f"{self.folder}\n{packages}\n{_COVERAGE}\n")
        for program in (Path(sys.prefix) / "bin").iterdir():
            target = venv / "bin" / program.name
            if program.is_symlink() or target.exists():
                continue
            data = program.read_bytes()
            if data.startswith(f"#!{sys.prefix}".encode()):
                target.write_bytes(data.replace(sys.prefix.encode(), str(venv).encode()))
                target.chmod(0o755)

    def _python(self, *arguments: str) -> None:
        subprocess.run([self.python, *arguments], cwd=self.folder, check=True)

    def read(self, path: str) -> bytes:
        """Return the content of the module at *path* in the copy."""
        return (self.folder / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Replace the module at *path* in the copy by *data*."""
        (self.folder / path).write_bytes(data)

    def run(
        self,
        arguments: Sequence[str],
        seconds: float,
        output: Path,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Run python with *arguments*; return its exit code, or TIMED_OUT after *seconds*."""
        variables = {
            **self._variables(),
            "SCRATCH": str(_SCRATCH_BYTES),
            "DATA": str(_DATA_BYTES),
            "LIMIT": str(seconds),
            **(environment or {}),
        }
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*namespaces, "sh", "-c", _RUN, "sh", str(self.python), *arguments]
        with output.open("wb") as file:
            return subprocess.run(
                command,
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode

    def test(self, arguments: Sequence[str], seconds: float, output: Path) -> int:
        """Run pytest with *arguments*; return its exit code, or TIMED_OUT after *seconds*."""
        if self._server is None:
            self._server = subprocess.Popen(
                [self.python, "-m", "tools.mutate.server"],
                cwd=self.folder,
                env=self._variables(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {
            "arguments": [*arguments],
            "seconds": seconds,
            "output": str(output),
            "memory_bytes": _DATA_BYTES,
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def _variables(self) -> dict[str, str]:
        variables = {
            **os.environ,
            "TMPDIR": str(self.folder / "tmp"),
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.folder / ".venv"),
            examples.EXAMPLES: str(_EXAMPLES),
        }
        variables.pop("PYTHONPATH", None)
        return variables

    def remove(self) -> None:
        """End the test server and remove the copy."""
        if self._server is not None:
            self._server.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)
