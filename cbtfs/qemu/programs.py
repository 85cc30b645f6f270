"""The programs and files of QEMU that run guests."""

from pathlib import Path
from typing import Final

from cbtfs import process
from cbtfs.errors import UsageError

_PROGRAM: Final = "qemu-system-x86_64"
_FIRMWARE: Final = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
"""UEFI firmware and its variables, as Debian, Fedora and Arch install them."""


def find_qemu() -> str:
    """Return the path of QEMU; UsageError if it is not installed."""
    program = process.find_program(_PROGRAM)
    if program is None:
        raise UsageError(f"the program {_PROGRAM} is missing: install the package qemu-system-x86")
    return program


def find_efi() -> tuple[Path, Path]:
    """Return the UEFI firmware and the file with its variables; UsageError without it."""
    for code, variables in _FIRMWARE:
        if Path(code).is_file() and Path(variables).is_file():
            return Path(code), Path(variables)
    raise UsageError("the guest needs UEFI, and its firmware is missing: install the package ovmf")
