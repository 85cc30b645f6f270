"""The evidence of boots: screenshots and serial output in a bounded directory."""

from contextlib import suppress
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId, is_id
from cbtfs.errors import MountFailed
from cbtfs.prove.picture import read_picture
from cbtfs.qemu.guest import Guest

_BOOTS: Final = 100
"""Maximum number of points whose evidence is kept."""
_BYTES: Final = 64 << 20
"""Maximum size of all files: a guest chooses the size of its screen."""
_SUFFIXES: Final = (".log", ".png")


def keep(folder: Path, point: PointId, serial: str, guest: Guest, scratch: Path) -> None:
    """Keep the screenshot and the serial output of a boot, and remove the oldest ones.

    Raises:
        OSError: the directory cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / f"{point}.log").write_text(serial)
    with suppress(MountFailed):
        guest.screenshot(scratch / "screen.png")
        if picture := read_picture(scratch / "screen.png"):
            (folder / f"{point}.png").write_bytes(picture)
    _remove_oldest(folder)


def _remove_oldest(folder: Path) -> None:
    boots: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if path.suffix in _SUFFIXES and is_id(path.stem):
            boots.setdefault(path.stem, []).append(path)
    times: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for point, paths in boots.items():
        for path in paths:
            with suppress(FileNotFoundError):  # Another command removed it.
                facts = path.stat()
                times[point] = max(times.get(point, 0), facts.st_mtime_ns)
                sizes[point] = sizes.get(point, 0) + facts.st_size
    total = 0
    for number, point in enumerate(sorted(times, key=lambda point: -times[point])):
        total += sizes[point]
        if number and (number >= _BOOTS or total > _BYTES):
            for path in boots[point]:
                path.unlink(missing_ok=True)
