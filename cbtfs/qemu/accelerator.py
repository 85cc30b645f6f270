"""The choice between KVM and QEMU's emulation (TCG)."""

import json
import os
import resource
import tempfile
from pathlib import Path
from typing import Final, Literal, get_args

from cbtfs import process
from cbtfs.errors import UsageError
from cbtfs.qemu.machine import Accelerator
from cbtfs.qemu.programs import find_qemu

Wanted = Literal["auto", "kvm", "tcg"]
WANTED: Final[tuple[Wanted, ...]] = get_args(Wanted)

_DEVICE: Final = Path("/dev/kvm")
_BOOT_SECTOR: Final = bytes.fromhex("b020e6f4f4").ljust(510, b"\0") + b"\x55\xaa"
"""mov al, 0x20; out 0xf4, al; hlt."""
_EXIT_CODE: Final = 0x20 << 1 | 1
"""Status of QEMU after its device isa-debug-exit got 0x20."""
_PROBE_SECONDS: Final = 2.0
"""A BIOS starts in 0.3 s, but took 13 s with a KVM nested in software, where Linux never starts."""
_KILL_SECONDS: Final = 1.0


def choose_accelerator(wanted: Wanted) -> Accelerator:
    """Return the accelerator to use: with `auto`, KVM if it works, else TCG.

    Raises:
        UsageError: KVM is wanted, and does not work.
    """
    if wanted == "tcg":
        return "tcg"
    if has_kvm():
        return "kvm"
    if wanted == "kvm":
        raise UsageError(
            "KVM does not work on this host: check /dev/kvm and nested virtualisation, or use "
            "--accel tcg"
        )
    return "tcg"


def has_kvm() -> bool:
    """Return whether KVM boots a guest that ends at once, within 2 seconds.

    A host may have /dev/kvm and be slower with it than QEMU's emulation.
    """
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return False
    with tempfile.NamedTemporaryFile(prefix="cbtfs-kvm-") as disk:
        disk.write(_BOOT_SECTOR)
        disk.flush()
        file = {"driver": "file", "filename": disk.name}
        drive = {"driver": "raw", "node-name": "disk", "file": file}
        command = [
            *(find_qemu(), "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "pc,accel=kvm", "-cpu", "host", "-m", "16M", "-nic", "none"),
            *("-sandbox", "on", "-blockdev", json.dumps(drive), "-device", "ide-hd,drive=disk"),
            *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
        ]
        child = process.start(process.ends_with_parent(command), stderr=process.DEVNULL)
        # QEMU aborts if the CPU of the host is not as it expects.
        resource.prlimit(child.pid, resource.RLIMIT_CORE, (0, 0))
        try:
            return child.wait(_PROBE_SECONDS) == _EXIT_CODE
        except process.TimeoutExpired:
            return False
        finally:
            _kill(child)


def _kill(child: process.Popen[bytes]) -> None:
    """Kill a process, which may not end: a vCPU can hang in the kernel."""
    child.kill()
    try:
        child.wait(_KILL_SECONDS)
    except process.TimeoutExpired:
        child.returncode = -1  # No warning about a child that is still running.
