"""A simulated vSphere with one VM, whose disk is the demo's; a process of its own."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cbtfs
from cbtfs import process
from cbtfs.errors import CbtfsError, UsageError

_CHECKOUT: Final = Path(cbtfs.__file__).parents[1]
_READY_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Site:
    """Where the simulator answers, and what a client must know."""

    server: str
    thumbprint: str
    user: str
    password_file: Path

    @property
    def arguments(self) -> list[str]:
        """For `cbtfs ingest vsphere`."""
        return [
            *("--server", self.server),
            *("--thumbprint", self.thumbprint),
            *("--user", self.user),
            *("--password-file", str(self.password_file)),
        ]


@contextmanager
def simulated(folder: Path, vm: str, disk: str, image: Path) -> Iterator[Site]:
    """A vCenter with the machine *vm*, whose only disk is the raw file *image*.

    UsageError outside of a checkout: the simulator is no part of the installed program.
    """
    if not (_CHECKOUT / "tools" / "vsim").is_dir():
        raise UsageError("the simulator is in a checkout of cbtfs only: run the demo there")
    inventory = folder / "inventory.toml"
    name, file, label = (json.dumps(str(each)) for each in (vm, image, disk))
    inventory.write_text(f"[[vm]]\nname = {name}\n[[vm.disk]]\nfile = {file}\nlabel = {label}\n")
    arguments = ("--inventory", inventory, "--state", folder / "vsim")
    command = process.module("tools.vsim", *arguments)
    with process.start(command, cwd=_CHECKOUT, stdout=process.PIPE) as server:
        try:
            line = process.first_line(server, _READY_SECONDS)
            if not line:
                raise CbtfsError("the simulator did not start: see above")
            yield _site(folder, json.loads(line))
        finally:
            server.terminate()


def _site(folder: Path, ready: dict[str, Any]) -> Site:
    file = folder / "password"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as password:
        password.write(ready["password"])
    return Site(f"{ready['host']}:{ready['port']}", ready["thumbprint"], ready["user"], file)
