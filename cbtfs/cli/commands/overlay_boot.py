"""`cbtfs overlay boot`: run the guest of an overlay in QEMU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.options.arguments import Json
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.report.output import emit, note, print_lines
from cbtfs.core.units import parse_size
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.overlay.boot import BootedGuest, BootOptions

_MIB = 1 << 20


def boot(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Name of the overlay.")
    ],
    directory: Annotated[
        Path,
        typer.Option(
            "--dir", metavar="DIR", show_default=False, help="Directory where overlays are kept."
        ),
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- QEMU OPTIONS]", show_default=False, help="Further options of QEMU."
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NETDEV",
            show_default="none",
            help="Connect the guest to a network, in words of QEMU's -netdev without an id: user, "
            "or bridge,br=br0. A copy of a running VM on the same network does harm.",
        ),
    ] = None,
    accel: Annotated[
        str,
        typer.Option(
            metavar="ACCEL", help="kvm, tcg (emulation, slow), or auto: kvm if it works, else tcg."
        ),
    ] = "auto",
    firmware: Annotated[
        str | None,
        typer.Option(
            metavar="FIRMWARE", show_default="that of the VM", help="bios, or efi (package ovmf)."
        ),
    ] = None,
    bus: Annotated[
        str | None,
        typer.Option(
            metavar="BUS",
            show_default="that of the VM",
            help="Bus of all disks: pvscsi, lsi, sas, sata, ide, nvme or virtio.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", show_default="that of the VM", help="Memory of the guest."),
    ] = None,
    cpus: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=255, show_default="those of the VM", help="Number of CPUs."
        ),
    ] = None,
    mount: Annotated[
        Path | None,
        typer.Option(
            metavar="MNT",
            show_default="a private mount",
            help="Read the point from this mount of the repository.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Boot the guest of an overlay in QEMU, without a network.

    The guest gets a network with --network only. Prints how to connect to the serial port and the
    screen, and 'ready'; returns when the guest has powered off. 'cbtfs overlay stop' and Ctrl-C are
    a loss of power for the guest. Firmware, memory and the buses of the disks are those of the VM.
    Needs QEMU (package qemu-system-x86).
    """
    from cbtfs.mount.notify import notify
    from cbtfs.overlay.boot import BootOptions, boot_overlay
    from cbtfs.overlay.folder import overlay_folder
    from cbtfs.qemu.accelerator import WANTED
    from cbtfs.qemu.hardware import BUSES, FIRMWARES

    options = BootOptions(
        _one_of("--accel", accel, WANTED),
        None if firmware is None else _one_of("--firmware", firmware, FIRMWARES),
        None if bus is None else _one_of("--bus", bus, BUSES),
        None if memory is None else _mebibytes(memory),
        cpus,
        network,
        tuple(more or ()),
        None if mount is None else mount.absolute(),
    )
    folder = overlay_folder(directory, name)

    def ready(guest: BootedGuest) -> None:
        notify(f"READY=1\nSTATUS=guest of overlay {name}")
        _report(name, guest, options, as_json=json)

    boot_overlay(readable_path(context).absolute(), folder, options, ready)


def _one_of(option: str, value: str, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise UsageError(f"invalid {option} {value!r}: use {', '.join(known)}")
    return value


def _mebibytes(text: str) -> int:
    try:
        size = parse_size(text)
    except ValueError as exc:
        raise UsageError(f"invalid --memory {exc}") from exc
    if size < _MIB:
        raise UsageError("invalid --memory: a guest needs 1 MiB at least")
    return size // _MIB


def _report(name: str, guest: BootedGuest, options: BootOptions, *, as_json: bool) -> None:
    machine = guest.machine
    if as_json:
        emit(
            {
                "overlay": name,
                "accelerator": machine.accelerator,
                "firmware": machine.hardware.firmware,
                "cpus": machine.hardware.cpus,
                "memory_mib": machine.hardware.memory_mib,
                "network": options.netdev,
                "serial": str(guest.serial),
                "vnc": str(guest.vnc),
                "disks": [
                    {"disk": disk.label, "bus": slot.bus}
                    for disk, slot in zip(guest.disks, machine.slots, strict=True)
                ],
            }
        )
    else:
        print_lines(
            [
                f"serial: socat -,rawer,escape=0x1d UNIX-CONNECT:{guest.serial}",
                f"screen: vncviewer {guest.vnc}",
                "ready",
            ]
        )
    if sys.stderr.isatty():
        slow = "; it is slow without KVM" if machine.accelerator == "tcg" else ""
        note(f"the guest of overlay {name} is running{slow}; Ctrl-C cuts its power")
