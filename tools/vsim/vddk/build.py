"""Compile the library into the layout of VMware's distribution: DIR/lib64."""

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
    """Compile both libraries into *folder*/lib64; neither has a run path (as in VMware's)."""
    lib64 = folder / "lib64"
    lib64.mkdir(parents=True, exist_ok=True)
    wire, library = lib64 / _WIRE, lib64 / _LIBRARY
    _compile(wire, _SOURCES / "wire.c")
    sources = [_SOURCES / name for name in ("vixDiskLib.c", "request.c", "disk.c")]
    _compile(library, *sources, wire)
    link = lib64 / "libvixDiskLib.so"
    link.unlink(missing_ok=True)
    link.symlink_to(_LIBRARY)


def _compile(target: Path, *inputs: Path) -> None:
    command = [*_COMPILE, f"-Wl,-soname,{target.name}", "-o", str(target), *map(str, inputs)]
    subprocess.run(command, check=True)


def point_at(folder: Path, host: str, port: int) -> None:
    """Configure the library in *folder* to connect to the simulator at *host* and *port*."""
    (folder / "vsim.conf").write_text(f"{host} {port}\n")
