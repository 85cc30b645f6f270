"""Level 4: the boot of the guest from images over the point, without a network."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cbtfs.core.manifest import DiskRecord, Manifest
from cbtfs.errors import ChunkMissing, DataCorrupt, MountFailed, UsageError
from cbtfs.prove.confined import Confinement
from cbtfs.prove.evidence import keep
from cbtfs.prove.observe import BootOptions, Observer, Starved, Verdict
from cbtfs.prove.part import Refuted, Untestable
from cbtfs.prove.scratch import guarded_folder
from cbtfs.qemu.accelerator import choose_accelerator
from cbtfs.qemu.composed import ComposedDisk, blockdevs, node_name
from cbtfs.qemu.guest import running_guest
from cbtfs.qemu.hardware import load_hardware
from cbtfs.qemu.images import create_image, find_qemu_img
from cbtfs.qemu.machine import Consoles, Efi, Machine
from cbtfs.qemu.programs import find_efi
from cbtfs.store.repository import Repository

log = logging.getLogger(__name__)

_IMAGE_BYTES: Final = 4 << 30
"""Maximum size of the writes to each disk; a boot writes some MiB."""
_MAX_MEMORY_MIB: Final = 4096
_TRIES: Final = 3
"""Maximum number of boots if a busy host cannot emulate the guest; they fail in their first second.
"""
_CPU_SECONDS: Final = 24 * 3600.0
"""Limit of the processor time of QEMU; the time of a boot is limited by its options."""


@dataclass(frozen=True, slots=True)
class Booted:
    """The end of a boot."""

    verdict: Verdict
    text: str
    seconds: float


def boot(
    repository: Repository,
    manifest: Manifest,
    disks: Sequence[tuple[DiskRecord, Path]],
    options: BootOptions,
    stop: threading.Event,
) -> Booted:
    """Boot the guest of a point from its *disks*, files of a mount, and observe it.

    Raises:
        Refuted: the configuration of the VM is damaged, or the script failed.
        Untestable: QEMU is missing, or refuses the machine.
        Stopped: *stop* was set.
    """
    try:
        with booted_guest(repository, manifest, disks, options, stop) as (booted, _):
            return booted
    except (ChunkMissing, DataCorrupt) as exc:
        raise Refuted(str(exc)) from exc
    except (UsageError, MountFailed, OSError) as exc:
        raise Untestable(str(exc)) from exc


@contextmanager
def booted_guest(
    repository: Repository,
    manifest: Manifest,
    disks: Sequence[tuple[DiskRecord, Path]],
    options: BootOptions,
    stop: threading.Event,
) -> Iterator[tuple[Booted, Consoles]]:
    """Boot the guest of a point and observe it; it runs until the end of the block.

    Its writes are in images, which a guard removes even if this process is killed. The caller holds
    a lease of the point. A guest that fails because of the emulation is booted again.

    Raises:
        ChunkMissing, DataCorrupt: the configuration of the VM is damaged.
        Refuted: the script failed.
        UsageError: QEMU is missing.
        MountFailed: QEMU refuses the machine, or this host is too busy for the emulation.
        Stopped: *stop* was set.
    """
    started = time.monotonic()
    find_qemu_img()
    with ExitStack() as running:
        for remaining in reversed(range(_TRIES)):
            try:
                machine, verdict = running.enter_context(
                    _observed_guest(repository, manifest, disks, options, stop)
                )
                break
            except Starved as exc:
                if not remaining:
                    raise
                log.info("%s: %s", manifest.point, exc)
        yield Booted(*verdict, time.monotonic() - started), machine.consoles


@contextmanager
def _observed_guest(
    repository: Repository,
    manifest: Manifest,
    disks: Sequence[tuple[DiskRecord, Path]],
    options: BootOptions,
    stop: threading.Event,
) -> Iterator[tuple[Machine, tuple[Verdict, str]]]:
    """Boot the guest of a point until its verdict; it runs until the end of the block."""
    started = time.monotonic()
    with guarded_folder() as folder:
        machine, words = _machine(repository, manifest, disks, folder)
        confinement = Confinement(
            [path for _, path in disks],
            folders=[folder],
            devices=[Path("/dev/kvm")],
            allows_sockets=True,
            seconds=_CPU_SECONDS,
        )
        with running_guest([*machine.options(), *words], confinement.command) as guest:
            is_emulated = machine.accelerator == "tcg"
            observer = Observer(guest, machine.consoles, options, folder, stop, is_emulated)
            try:
                verdict = observer.wait(started + options.seconds)
            finally:
                if options.evidence is not None and not stop.is_set():
                    _keep(options.evidence, manifest, observer)
            yield machine, verdict


def _keep(folder: Path, manifest: Manifest, observer: Observer) -> None:
    try:
        keep(folder, manifest.point, observer.serial(), observer.guest, observer.folder)
    except OSError as exc:
        log.warning("cannot keep the evidence of %s: %s", manifest.point, exc)


def _machine(
    repository: Repository,
    manifest: Manifest,
    disks: Sequence[tuple[DiskRecord, Path]],
    folder: Path,
) -> tuple[Machine, list[str]]:
    hardware = load_hardware(repository, manifest)
    hardware = replace(
        hardware,
        firmware=hardware.firmware or "bios",
        cpus=min(hardware.cpus, len(os.sched_getaffinity(0))),
        memory_mib=min(hardware.memory_mib, _MAX_MEMORY_MIB),
    )
    composed = []
    for number, (record, path) in enumerate(disks):
        image = folder / f"{number}.qcow2"
        create_image(image, record.size)
        os.truncate(image, _IMAGE_BYTES)
        composed.append(ComposedDisk(image, path, _IMAGE_BYTES))
    efi = None
    if hardware.firmware == "efi":
        code, variables = find_efi()
        efi = Efi(code, Path(shutil.copyfile(variables, folder / "efi-variables.fd")))
    machine = Machine(
        hardware,
        [node_name(number) for number in range(len(disks))],
        hardware.slots_of([record.identity for record, _ in disks]),
        choose_accelerator("auto"),
        Consoles(
            folder / "serial.sock",
            folder / "serial.log",
            agent=folder / "agent.sock",
            qmp=folder / "qmp.sock",
        ),
        efi,
        has_dead_nic=True,
    )
    return machine, blockdevs(composed)
