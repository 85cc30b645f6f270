"""The overlays of a repository, by their pins."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cbtfs.core.overlay import Overlay
from cbtfs.core.pin import Pin
from cbtfs.errors import CbtfsError
from cbtfs.overlay.folder import OverlayFolder
from cbtfs.store.pins import load_pins

OverlayState = Literal["running", "stopped", "lost", "damaged", "on another host"]
_BLOCK: Final = 512
"""Unit of st_blocks (stat(2))."""


@dataclass(frozen=True, slots=True)
class ListedOverlay:
    """A pin, and the state of its overlay."""

    pin: Pin
    state: OverlayState
    overlay: Overlay | None
    """None unless its record can be read."""
    stored_bytes: int | None
    """Bytes that its images occupy; None if they cannot be examined."""


def list_overlays(repository: Path, directory: Path | None) -> list[ListedOverlay]:
    """Return the overlays of the repository, or those in *directory* on this host, by name."""
    pins = load_pins(repository)
    if directory is not None:
        parent, host = os.path.realpath(directory), socket.gethostname()
        pins = [p for p in pins if (os.path.dirname(p.directory), p.host) == (parent, host)]
    return [_listed(pin) for pin in pins]


def _listed(pin: Pin) -> ListedOverlay:
    if pin.host != socket.gethostname():
        return ListedOverlay(pin, "on another host", None, None)
    folder = OverlayFolder(Path(pin.directory))
    if not os.path.lexists(folder.path):
        return ListedOverlay(pin, "lost", None, None)
    try:
        overlay = folder.load()
        if overlay.id != pin.id:  # another overlay has the directory now
            return ListedOverlay(pin, "lost", None, None)
        stored = sum(os.stat(image).st_blocks * _BLOCK for image in folder.images(overlay))
    except (CbtfsError, OSError):
        return ListedOverlay(pin, "damaged", None, None)
    state: OverlayState = "stopped" if folder.holder() is None else "running"
    return ListedOverlay(pin, state, overlay, stored)
