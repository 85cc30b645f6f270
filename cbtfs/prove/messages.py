"""Messages of guests that fail to boot, in their output on the serial port or on the screen."""

import re
from typing import Final

from cbtfs.core.names import printable

_PANIC: Final = re.compile(r"Kernel panic - not syncing.*|KERNEL PANIC.*")
_EMERGENCY: Final = re.compile(
    r".*(?:Dropping to a shell|[Ee]mergency mode|\(initramfs\)|dracut:/#|grub rescue>).*"
)
_NO_TIMER: Final = re.compile(r"Kernel panic - not syncing: IO-APIC \+ timer doesn't work")
_LONGEST: Final = 100


def panic_in(text: str) -> str | None:
    """Return the message of a kernel that panicked."""
    return _found(_PANIC, text)


def emergency_in(text: str) -> str | None:
    """Return the message of a boot that ended in a rescue shell."""
    return _found(_EMERGENCY, text)


def has_no_timer(text: str) -> bool:
    """Return whether Linux found no timer interrupt in the 40 ms for which it waits.

    QEMU's emulation loses interrupts while a busy host does not run it. Linux omits this test under
    KVM. Source: arch/x86/kernel/apic/io_apic.c, check_timer().
    """
    return _NO_TIMER.search(text) is not None


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return None if match is None else printable(match[0].strip()[:_LONGEST])
