"""One virtual disk: the live image that the guest writes, its delta chain and its change tracking.

A disk has three kinds of files. The live image is the guest's view; any process may write to it at
any time, loop-mounted or not. The settled image is a copy of the live image as of the last stun.
Each snapshot creates a frozen image, which belongs to a link of the delta chain.
"""

import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tools.vsim.knobs import CbtKnobs
from tools.vsim.model.image import (
    Drift,
    catch_up,
    copy_image,
    data_spans,
    overwrite_image,
    punch,
    read_padded,
)
from tools.vsim.model.span import Span, whole_units
from tools.vsim.model.tracking import ChangeMap, ChangeTracker, new_epoch

Backing = Literal[
    "flat2", "flat1", "sparse2", "sparse1", "sesparse", "rdm-virtual", "rdm-physical", "raw2"
]
UNTRACKABLE = ("flat1", "sparse1", "rdm-physical")  # these backings have no changeId
EXTEND_BOUNDARY = 128 << 30  # VMware KB 310751: growth past this size or its doublings


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """The configuration of a disk."""

    key: int
    label: str
    slot: str  # such as scsi0:0
    size: int
    uuid: str
    object_id: str
    mode: str = "persistent"
    backing: Backing = "flat2"
    provisioning: Literal["thin", "lazy", "eager"] = "thin"
    sharing: str = "sharingNone"
    linked: bool = (
        False  # a delta disk whose parent belongs to another machine, as in a linked clone
    )

    @property
    def in_snapshots(self) -> bool:
        return not self.mode.startswith("independent") and self.backing != "rdm-physical"

    @property
    def trackable(self) -> bool:
        return self.in_snapshots and self.backing not in UNTRACKABLE


@dataclass(eq=False, slots=True)
class Link:
    """One file of the delta chain: number 0 is the base; the live link has no image."""

    number: int
    parent: "Link | None"
    image: Path | None = None


@dataclass(eq=False, slots=True)
class DiskState:
    """The state of a disk in one snapshot."""

    disk: "SimulatedDisk"
    spec: DiskSpec
    link: Link
    tracked: ChangeMap | None
    truth: Path | None
    """Raw file of the disk's bytes at the snapshot; None if the snapshot excludes the disk."""


@dataclass(frozen=True, slots=True)
class DiskFiles:
    """Where a disk keeps its data on this machine."""

    live: Path
    """The live image."""
    store: Path
    """Folder of the settled image and of the images of snapshots."""


class SimulatedDisk:
    """A disk of a machine. The world's lock covers every method except `read` and `write`."""

    def __init__(
        self, spec: DiskSpec, datastore: str, base: str, files: DiskFiles, seed: str
    ) -> None:
        live, store = files.live, files.store
        self.spec = spec
        self.datastore = datastore
        self.base = base  # directory and file name on the datastore, without suffix
        self.live = live
        self.store = store
        self.cbt: CbtKnobs | None = None  # replaces the common knobs
        self.tracker: ChangeTracker | None = None
        self.skewed = False
        self.links = [Link(0, None)]
        self.origin = self.links[0] if spec.linked else None  # never merged
        if self.origin:
            self.links.append(Link(1, self.origin))
        self.current = self.links[-1]
        self._epochs = random.Random(seed)
        self._settled = store / "settled.raw"
        self._images = 0
        if (store / "links").exists():
            shutil.rmtree(store / "links")
        (store / "links").mkdir(parents=True)
        with live.open("ab"):
            os.truncate(live, spec.size)
        self._settled.touch()
        catch_up(live, self._settled, spec.size)

    # guest

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the live image."""
        with self.live.open("rb") as image:
            return read_padded(image.fileno(), offset, length)

    def write(self, offset: int, data: bytes) -> None:
        """Write to the live image as a guest does; raises ValueError outside the disk."""
        if offset < 0 or offset + len(data) > self.spec.size:
            raise ValueError(f"cannot write {len(data)} bytes at {offset}: outside the disk")
        with self.live.open("r+b", buffering=0) as image:
            os.pwrite(image.fileno(), data, offset)

    def discard(self, offset: int, length: int, knobs: CbtKnobs) -> None:
        """Discard a range as the guest's TRIM does.

        Whole units become holes. The rest of the range is unchanged, as on VMFS.
        """
        ranges = [Span(offset, min(offset + length, self.spec.size))]
        with self.live.open("r+b") as image:
            for span in whole_units(ranges, knobs.unmap_unit, self.spec.size):
                punch(image.fileno(), span)

    # names

    def path(self, link: Link | None = None, suffix: str = "") -> str:
        """Return the datastore path of a link's descriptor, or of its file with *suffix*."""
        number = (link or self.current).number
        return f"[{self.datastore}] {self.base}{f'-{number:06d}' if number else ''}{suffix}.vmdk"

    def move(self, datastore: str, directory: str) -> None:
        """Move all files of the disk to a directory."""
        self.datastore = datastore
        self.base = f"{directory}/{self.base.rpartition('/')[2]}"

    @property
    def directory(self) -> str:
        return self.base.rpartition("/")[0]

    # tracking

    @property
    def change_id(self) -> str | None:
        return self.tracker.freeze().change_id if self.tracker else None

    def settle(self, knobs: CbtKnobs) -> None:
        """Add the guest's changes since the last stun to the change map."""
        drift = self._catch_up(knobs)
        changed = drift.written + (drift.discarded if knobs.unmap_reported else ())
        if self.tracker and changed:
            self.tracker.advance(changed, knobs.sequence_step)

    def overlook(self, knobs: CbtKnobs) -> None:
        """Drop the guest's changes since the last stun: the change map never shows them."""
        self._catch_up(knobs)

    def start_tracking(self, knobs: CbtKnobs) -> None:
        """Start tracking with a new epoch; allocated blocks count as changed."""
        self._catch_up(knobs)
        with self._settled.open("rb") as image:
            in_use = list(data_spans(image.fileno(), self.spec.size))
        if self.spec.provisioning == "eager":
            in_use = [Span(0, self.spec.size)]
        self.tracker = ChangeTracker.start(new_epoch(self._epochs), knobs.granularity, in_use)
        self.skewed = False

    def stop_tracking(self) -> None:
        """Drop the change map."""
        self.tracker = None

    # snapshots

    def freeze(self, knobs: CbtKnobs, keep: Path) -> DiskState:
        """Return the present state of the disk; the guest continues in a new link.

        *keep* is the path of the reference image.
        """
        if not self.spec.in_snapshots:
            return DiskState(self, self.spec, self.current, None, None)
        drift = self._catch_up(knobs)
        if self.tracker:
            changed = drift.written + (drift.discarded if knobs.unmap_reported else ())
            before = self.tracker.sequence
            self.tracker.advance(changed, knobs.sequence_step)
            if knobs.same_sequence:
                self.tracker.sequence = before
        link = self.current
        self._images += 1
        link.image = self.store / "links" / f"{self._images}.raw"
        copy_image(self._settled, link.image, self.spec.size)
        os.link(link.image, keep)
        self._descend_from(link)
        tracked = self.tracker.freeze() if self.tracker else None
        return DiskState(self, self.spec, link, tracked, keep)

    def revert(self, to: DiskState, knobs: CbtKnobs) -> None:
        """Restore the bytes of *to*; later writes are lost."""
        if to.truth is None:
            return
        overwrite_image(to.truth, self.live, to.spec.size)
        overwrite_image(to.truth, self._settled, to.spec.size)
        self.spec = to.spec
        if self.current.image is None:
            self.links.remove(self.current)
        self._descend_from(to.link)
        sequence = self.tracker.sequence if self.tracker else 1
        if to.tracked is None:
            self.tracker = None
        elif knobs.revert == "new-epoch":
            self.tracker = ChangeTracker.resume(to.tracked, new_epoch(self._epochs), 1)
            self.tracker.changed_at = dict.fromkeys(self.tracker.changed_at, 1)
        else:
            number = sequence if knobs.revert == "keep-epoch" else to.tracked.sequence
            self.tracker = ChangeTracker.resume(to.tracked, to.tracked.epoch, number)

    def consolidate(self, held: Iterable[Link]) -> None:
        """Merge each link that no snapshot holds into its only child; remove unused leaves."""
        kept = {*held, self.origin}
        while True:
            spare = [link for link in self.links if link not in kept and link is not self.current]
            for link in spare:
                children = [child for child in self.links if child.parent is link]
                if len(children) < 2:
                    break
            else:
                return
            if children:  # the child's file takes the name of the link
                children[0].number, children[0].parent = link.number, link.parent
            self.links.remove(link)
            if link.image:
                link.image.unlink()

    # size

    def grow(self, size: int, knobs: CbtKnobs) -> None:
        """Extend the disk. The machine must have no snapshots (vSphere requires this)."""
        old, self.spec = self.spec.size, replace(self.spec, size=size)
        os.truncate(self.live, size)
        self._catch_up_into_tracker(knobs, Span(old, size))
        if knobs.extend_skews and any(
            old <= EXTEND_BOUNDARY << power < size for power in range(20)
        ):
            self.skewed = True

    def _catch_up_into_tracker(self, knobs: CbtKnobs, extra: Span) -> None:
        drift = self._catch_up(knobs)
        if self.tracker:
            self.tracker.advance([*drift.written, *drift.discarded, extra], knobs.sequence_step)

    def _catch_up(self, knobs: CbtKnobs) -> Drift:
        return catch_up(self.live, self._settled, self.spec.size, knobs.unmap_unit)

    def _descend_from(self, parent: Link) -> None:
        taken = {link.number for link in self.links}
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        self.current = Link(number, parent)
        self.links.append(self.current)
