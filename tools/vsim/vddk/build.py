"""Compile the library and lay it out as VMware's distribution is: DIR/lib64 has the libraries."""

import subprocess
from pathlib import Path
from typing import Final

_SOURCES: Final = Path(__file__).parent
_COMPILE: Final = (
    "gcc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Wextra", "-Werror",
    "-fPIC", "-shared", "-pthread",
)  # fmt: skip
_WIRE, _LIBRARY = "libvsimwire.so.1", "libvixDiskLib.so.8"


def build(folder: Path) -> None:
    """The two libraries in *folder*/lib64; neither knows where the other one is."""
    lib64 = folder / "lib64"
    lib64.mkdir(parents=True, exist_ok=True)
    wire, library = lib64 / _WIRE, lib64 / _LIBRARY
    _compile(wire, _SOURCES / "wire.c")
    _compile(library, _SOURCES / "vixDiskLib.c", wire)
    link = lib64 / "libvixDiskLib.so"
    link.unlink(missing_ok=True)
    link.symlink_to(_LIBRARY)


def _compile(target: Path, *inputs: Path) -> None:
    command = [*_COMPILE, f"-Wl,-soname,{target.name}", "-o", str(target), *map(str, inputs)]
    subprocess.run(command, check=True)


def point_at(folder: Path, host: str, port: int) -> None:
    """Have the library in *folder* go to the simulator there."""
    (folder / "vsim.conf").write_text(f"{host} {port}\n")
