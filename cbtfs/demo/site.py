"""A simulated vCenter in another process, with one VM that has the demo's disk."""

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
class SimulatedVcenter:
    """Address and credentials of a running simulator."""

    server: str
    thumbprint: str
    user: str
    password_file: Path

    @property
    def arguments(self) -> list[str]:
        """Login options of `cbtfs ingest vsphere`."""
        return [
            *("--server", self.server),
            *("--thumbprint", self.thumbprint),
            *("--user", self.user),
            *("--password-file", str(self.password_file)),
        ]


@contextmanager
def simulated_vcenter(folder: Path, vm: str, disk: str, image: Path) -> Iterator[SimulatedVcenter]:
    """Start a simulated vCenter with the VM *vm*, whose only disk is the raw file *image*.

    Raises:
        UsageError: the simulator is not installed; only a checkout contains it.
    """
    if not (_CHECKOUT / "tools" / "vsim").is_dir():
        raise UsageError(
            "cannot start the simulator: only a checkout of cbtfs contains it; run the demo there"
        )
    inventory = folder / "inventory.toml"
    name, file, label = (json.dumps(str(value)) for value in (vm, image, disk))
    inventory.write_text(f"[[vm]]\nname = {name}\n[[vm.disk]]\nfile = {file}\nlabel = {label}\n")
    arguments = ("--inventory", inventory, "--state", folder / "vsim")
    command = process.module("tools.vsim", *arguments)
    with process.start(command, cwd=_CHECKOUT, stdout=process.PIPE) as server:
        try:
            line = process.first_line(server, _READY_SECONDS)
            if not line:
                raise CbtfsError("the simulator did not start: see its errors above")
            yield _site(folder, json.loads(line))
        finally:
            server.terminate()


def _site(folder: Path, ready: dict[str, Any]) -> SimulatedVcenter:
    path = folder / "password"
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
    ) as password_file:
        password_file.write(ready["password"])
    return SimulatedVcenter(
        f"{ready['host']}:{ready['port']}", ready["thumbprint"], ready["user"], path
    )
