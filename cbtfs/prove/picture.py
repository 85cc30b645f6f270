"""The screen of a guest: QEMU, which runs a hostile guest, writes its files."""

import os
import stat
from pathlib import Path
from typing import Final

from cbtfs.qemu.guest import Guest

MAX_BYTES: Final = 64 << 20
"""Maximum size of a picture; the memory of QEMU's screen has 16 MiB."""
_TEXT_MODE: Final = b"P6\n720 400\n255\n"
"""Head of a picture of a VGA in text mode."""
_TEXT_ADDRESS: Final = 0xB8000
_TEXT_BYTES: Final = 32 << 10
_COLUMNS: Final = 80


def read_picture(path: Path) -> bytes:
    """Return the content of a file that QEMU has written; empty if it is no picture.

    A link is not followed, and a file of more than MAX_BYTES is not read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_BYTES:
            return b""
        return file.read(MAX_BYTES)


def load_text(guest: Guest, picture: bytes, folder: Path) -> str:
    """Return the text on the screen of a guest, with lines that scrolled away; empty for graphics.

    *picture*: the screen as PPM. *folder*: directory for the memory of the screen.

    Raises:
        MountFailed: QEMU cannot write it.
    """
    if not picture.startswith(_TEXT_MODE):
        return ""
    path = folder / "screen.text"
    area = {"val": _TEXT_ADDRESS, "size": _TEXT_BYTES}
    guest.qmp.execute("pmemsave", {**area, "filename": str(path)})
    characters = read_picture(path)[::2]  # Each one has a byte for its colours.
    rows = (characters[at : at + _COLUMNS] for at in range(0, len(characters), _COLUMNS))
    return "\n".join(row.decode("cp437").replace("\0", " ").rstrip() for row in rows)
