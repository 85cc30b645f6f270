"""Directories with planted modules, which log each import and its process."""

import json
import os
import pkgutil
import shutil
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

import cbtfs

STARTED_BEFORE: Final = frozenset({"sitecustomize", "usercustomize", "cbtfs"})
"""Names that PYTHONPATH and `python -m` replace before any code of cbtfs runs."""

_CONSOLE_SCRIPT: Final = """#!{python}
# -*- coding: utf-8 -*-
import re
import sys
from {module} import {function}
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
    sys.exit({function}())
"""
"""The template of pip."""

_MODULE: Final = """
import posix, sys  # built in: others may be planted, too
with open({log!r}, "ab") as log:
    log.write(ascii((__file__, posix.getpid(), sys.argv)).encode("ascii") + b"\\n")
raise RuntimeError("a planted module was imported: " + __file__)
"""


def console_script(folder: Path, name: str = "cbtfs") -> Path:
    """Write the program *name* to *folder*, as pip installs it from pyproject.toml."""
    import tomllib

    project = Path(__file__).parents[1] / "pyproject.toml"
    entry = tomllib.loads(project.read_text())["project"]["scripts"][name]
    module, _, function = entry.partition(":")
    path = folder / name
    path.write_text(_CONSOLE_SCRIPT.format(python=sys.executable, module=module, function=function))
    path.chmod(0o755)
    return path


@cache
def names() -> frozenset[str]:
    """Return top-level names of all modules that cbtfs or an interpreter imports."""
    for module in pkgutil.walk_packages(cbtfs.__path__, "cbtfs."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    tops = {name.partition(".")[0] for name in sys.modules} | {"keyring", "matplotlib"}
    started = {"sitecustomize", "usercustomize", "cbtfs", "runpy", "encodings", "site"}
    return frozenset(
        name for name in tops | started if name.isidentifier() and not name.startswith("__")
    )


@cache
def _imported_first() -> frozenset[str]:
    """Return modules that the interpreter and a console script import before cbtfs."""
    program = "import json, re, runpy, sys; print(json.dumps([*sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return frozenset(name.partition(".")[0] for name in json.loads(done.stdout)) - {"json"}


class Planted:
    """Directories in which modules were planted, and the log of those that ran."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def plant(self, folder: Path, *, is_in_path: bool = False) -> Path:
        """Plant modules of all names in *folder*.

        *is_in_path*: without those that PYTHONPATH has the interpreter import before us.
        """
        folder.mkdir(exist_ok=True)
        left_out = STARTED_BEFORE | _imported_first() if is_in_path else frozenset()
        for name in names() - left_out:
            path = folder / f"{name}.py"
            if not path.exists():
                path.write_text(_MODULE.format(log=str(self._log)))
        return folder

    def clear(self, folder: Path) -> None:
        """Remove planted modules from *folder*."""
        for path in folder.glob("*.py"):
            path.unlink()
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)

    def imported(self) -> list[str]:
        """Return the log of imports."""
        return self._log.read_text().splitlines() if self._log.exists() else []


def environment(planted: Path, **more: str) -> dict[str, str]:
    """Return an environment with the planted modules in all search paths of Python and a shell."""
    return {
        **os.environ,
        "PYTHONPATH": str(planted),
        "PATH": os.pathsep.join(("", ".", os.environ["PATH"])),
        **more,
    }
