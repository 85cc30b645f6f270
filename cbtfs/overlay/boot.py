"""Boot an overlay: a private mount of its point, and QEMU over the images.

QEMU composes the disks as qemu-storage-daemon does for `start`, so both continue the same images. A
guest runs until it powers off, or until a signal cuts its power.
"""

import os
import selectors
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from cbtfs.core.manifest import Manifest
from cbtfs.core.overlay import Overlay, OverlayDisk
from cbtfs.errors import MountFailed
from cbtfs.mount.notify import notify
from cbtfs.mount.private import PrivateMount
from cbtfs.overlay.base import disks_of, load_base
from cbtfs.overlay.composition import base_files, base_mount, compose
from cbtfs.overlay.create import require_repository
from cbtfs.overlay.folder import OverlayFolder, refuse_directory
from cbtfs.overlay.runtime import new_runtime, remove_traces
from cbtfs.qemu.accelerator import Wanted, choose_accelerator
from cbtfs.qemu.composed import node_name
from cbtfs.qemu.guest import Guest, running_guest
from cbtfs.qemu.hardware import Bus, Firmware, Hardware, Slot, load_hardware
from cbtfs.qemu.machine import Accelerator, Consoles, Efi, Machine, Network
from cbtfs.qemu.programs import find_efi, find_qemu
from cbtfs.qemu.signals import ending_signals
from cbtfs.store.repository import reading

_SERIAL: Final = "serial.sock"
_VNC: Final = "vnc.sock"
_VARIABLES: Final = "efi-variables.fd"


@dataclass(frozen=True, slots=True)
class BootOptions:
    """Changes to the machine of the VM. None: as in its configuration."""

    accelerator: Wanted = "auto"
    firmware: Firmware | None = None
    bus: Bus | None = None
    memory_mib: int | None = None
    cpus: int | None = None
    netdev: str | None = None
    """Network in the words of QEMU's `-netdev`, without id; None: no network."""
    more: Sequence[str] = ()
    """Options of QEMU, added at the end."""
    mountpoint: Path | None = None
    """A mount of the repository to use; None: a private one."""


@dataclass(frozen=True, slots=True)
class BootedGuest:
    """A running guest, and the sockets of its consoles."""

    disks: tuple[OverlayDisk, ...]
    machine: Machine

    @property
    def serial(self) -> Path:
        return self.machine.consoles.serial

    @property
    def vnc(self) -> Path:
        assert self.machine.consoles.vnc is not None
        return self.machine.consoles.vnc

    @property
    def accelerator(self) -> Accelerator:
        return self.machine.accelerator


def boot_overlay(
    repository: Path,
    folder: OverlayFolder,
    options: BootOptions,
    on_ready: Callable[[BootedGuest], None],
) -> None:
    """Boot the overlay; return when the guest has powered off. Call *on_ready* when it runs.

    SIGTERM, SIGINT and SIGHUP end QEMU, which flushes the images: a loss of power for the guest.

    Raises:
        UsageError: QEMU or its firmware is not installed, or an option does not suit.
        RepositoryLocked: the overlay is in use.
        ChunkMissing, DataCorrupt, SourceMismatch: see load_base(); no daemon was started.
        MountFailed: the mount or QEMU cannot start, or ended with an error.
    """
    overlay = folder.load()
    require_repository(overlay, repository)
    refuse_directory(folder.path, repository, "--dir")
    find_qemu()
    with folder.locked("boot"), ExitStack() as stack:
        remove_traces(folder)
        mount = base_mount(repository, options.mountpoint, stack)
        with reading(repository) as opened:
            manifest = load_base(opened, overlay)
            hardware = _chosen(load_hardware(opened, manifest), options)
        accelerator = choose_accelerator(options.accelerator)
        mounted = mount()
        runtime = stack.enter_context(new_runtime(folder, folder.path, [], []))
        machine = Machine(
            hardware,
            [node_name(number) for number in range(len(overlay.disks))],
            _slots(overlay, manifest, hardware, options.bus),
            accelerator,
            Consoles(serial=runtime.path / _SERIAL, vnc=runtime.path / _VNC),
            _efi(folder) if hardware.firmware == "efi" else None,
            None if options.netdev is None else Network(options.netdev, _mac(overlay)),
            overlay.is_joint,
        )
        bases = base_files(overlay, manifest, mounted)
        nodes = compose(folder, overlay, bases, runtime.path, is_read_only=False)
        words = [*machine.options(), *nodes, *options.more]
        guest = stack.enter_context(running_guest(words))
        with ending_signals() as wakeup:
            on_ready(BootedGuest(overlay.disks, machine))
            _wait(guest, mounted, wakeup)


def _chosen(hardware: Hardware, options: BootOptions) -> Hardware:
    """Return *hardware* with the changes of *options*, and no more CPUs than this host has."""
    available = len(os.sched_getaffinity(0))
    return replace(
        hardware,
        firmware=options.firmware or hardware.firmware or "bios",
        cpus=options.cpus or min(hardware.cpus, available),
        memory_mib=options.memory_mib or hardware.memory_mib,
    )


def _slots(overlay: Overlay, manifest: Manifest, hardware: Hardware, bus: Bus | None) -> list[Slot]:
    disks = disks_of(overlay, manifest)
    if bus is not None:
        return [Slot(bus, 0, number) for number in range(len(disks))]
    return hardware.slots_of([disk.identity for disk in disks])


def _efi(folder: OverlayFolder) -> Efi:
    """Return the firmware, with variables of this overlay, which later boots continue with."""
    code, template = find_efi()
    variables = folder.path / _VARIABLES
    if not variables.exists():
        partial = variables.with_suffix(".partial")
        shutil.copyfile(template, partial)
        os.replace(partial, variables)
    return Efi(code, variables)


def _mac(overlay: Overlay) -> str:
    """Return an address of QEMU's range that differs from that of the VM, and by overlay."""
    digits = sha256(overlay.id.encode()).digest()[:3]
    return ":".join(f"{byte:02x}" for byte in b"\x52\x54\x00" + digits)


def _wait(guest: Guest, mounted: PrivateMount, wakeup: socket.socket) -> None:
    """Wait until the guest powers off, or for a signal.

    Raises:
        MountFailed: QEMU failed, or the mount ended.
    """
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        for name, pid in (("guest", guest.child.pid), ("mount", mounted.process)):
            fd = os.pidfd_open(pid)
            stack.callback(os.close, fd)
            selector.register(fd, selectors.EVENT_READ, name)
        selector.register(wakeup, selectors.EVENT_READ, "signal")
        selector.register(guest.qmp, selectors.EVENT_READ, "events")
        while True:
            ended = {key.data for key, _ in selector.select()}
            if "signal" in ended:
                notify("STOPPING=1")
                return
            if "guest" in ended:
                if guest.child.wait() != 0:
                    raise MountFailed(f"QEMU ended: {guest.failure()}")
                return
            if "mount" in ended:
                raise MountFailed("the mount below the guest ended; boot it again")
            _drop_events(guest, selector)


def _drop_events(guest: Guest, selector: selectors.BaseSelector) -> None:
    """Drop the events of QEMU, so that it never waits for this process."""
    try:
        for _ in guest.qmp.events():
            pass
    except MountFailed:
        selector.unregister(guest.qmp)  # QEMU ends, and its process says how.
