"""Sources of `cbtfs ingest image`: a file, a device or an NBD export, with its options."""

import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.cli.report.output import say
from cbtfs.core.ids import PointId
from cbtfs.errors import PointNotFound, UsageError
from cbtfs.ingest.inputs import VmInput
from cbtfs.ingest.point import bases_of
from cbtfs.listing import find_exact_point
from cbtfs.source.base import DiskSource
from cbtfs.source.export import NbdSource, change_id_of, is_uri
from cbtfs.source.image import ImageSource
from cbtfs.source.image_format import detect_format
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.source.nbd import NbdLimits
from cbtfs.source.wrappers import ChangingSource
from cbtfs.store.repository import Repository

_STANDARD_INPUT: Final = "-"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
"""Labels that need no quoting in a shell or a URI."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Options of the disks; mappings have the labels of disks as keys."""

    lists: Mapping[str, ChangeList]
    bitmaps: Mapping[str, str]
    next_bitmaps: Mapping[str, str]
    timeout: float
    may_change: bool
    is_raw: bool = False
    """Capture the bytes of a file whatever they look like."""


def check_sources(sources: Mapping[str, str], options: SourceOptions) -> None:
    """Raise UsageError if options of a disk contradict each other."""
    for label in (*options.bitmaps, *options.next_bitmaps):
        if not is_uri(sources[label]):
            raise UsageError(
                f"disk {label} has no bitmap: it is not an NBD export; serve it with qemu-nbd "
                "--bitmap=NAME"
            )
    for label in options.bitmaps:
        if label in options.lists:
            raise UsageError(
                f"--changed and --bitmap of disk {label} are mutually exclusive: give one"
            )
    for label in sources:
        change_id(label, options)
    if list(sources.values()).count(_STANDARD_INPUT) > 1:
        raise UsageError("only one disk can be read from standard input: name a file for the other")


def change_id(label: str, options: SourceOptions) -> str | None:
    """Return the change ID to record for the next point of the disk."""
    name = options.next_bitmaps.get(label)
    return None if name is None else change_id_of(name)


def open_source(
    repository: Repository, vm: str, label: str, place: str, options: SourceOptions
) -> DiskSource:
    """Open the source at *place*: an NBD export, standard input, a file or a device.

    UsageError if it is a file that is not raw, and the first image of the disk.
    """
    source: DiskSource
    if is_uri(place):
        limits = NbdLimits(seconds=options.timeout)
        source = NbdSource(place, options.bitmaps.get(label), limits)
    else:
        image = ImageSource(_standard_input() if place == _STANDARD_INPUT else Path(place))
        if image.is_file and not options.is_raw:
            try:
                _require_raw(image, repository, vm, label, place)
            except BaseException:
                image.close()
                raise
        source = image
    if options.may_change:
        source = ChangingSource(source)
    try:
        source.confirm()  # fail before the first read if the source is in use
    except BaseException:
        source.close()
        raise
    changes = options.lists.get(label)
    if changes is not None:
        source = ListedSource(source, changes, _point_of(repository, changes.since))
    return source


def _require_raw(
    image: ImageSource, repository: Repository, vm: str, label: str, place: str
) -> None:
    """Refuse an image that is not raw as the first one of a disk; warn of later ones.

    A guest can write the magic number of a format into its first sector, and must not be able to
    stop its backups.
    """
    image_format = detect_format(image)
    if image_format is None:
        return
    name = "standard input" if place == _STANDARD_INPUT else place
    if bases_of(repository, VmInput(vm), [label])[label] is not None:
        say(
            f"disk {label}: {name} looks like a {image_format.name} image; its bytes are captured "
            "as a raw disk, like those of earlier points"
        )
        return
    file = os.path.realpath(_standard_input()) if place == _STANDARD_INPUT else place
    socket = f"/run/{label if _PLAIN.fullmatch(label) else 'disk'}.sock"
    raise UsageError(
        f"disk {label}: {name} is a {image_format.name} image, and only raw images are read: "
        "serve it with 'qemu-nbd --read-only --persistent --fork --shared=4 "
        f"--format={image_format.qemu} --socket={socket} {shlex.quote(file)}' and capture "
        f"'nbd+unix:///?socket={socket}'; --raw captures the file's own bytes"
    )


def _standard_input() -> Path:
    """Return the path of a redirected file. A pipe is refused: it cannot be read at an offset."""
    mode = os.fstat(0).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise UsageError(
            "cannot read standard input: it is a pipe, whose size is unknown; redirect a file "
            "(< FILE), or serve the data by NBD"
        )
    return Path("/dev/stdin")


def _point_of(repository: Repository, since: str | None) -> PointId | None:
    """Return the point named by the member `since` of a change list; None if it is not exact.

    "latest" may have been another point when the list was made.
    """
    if since is None:
        return None
    try:
        return find_exact_point(repository, since).manifest.point
    except (PointNotFound, UsageError):
        return None
