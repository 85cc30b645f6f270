"""Adds, removes and tests the key slots of a repository, and rotates its key."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cbtfs.core.keyslot import MAX_SLOTS, Slot, encode_slot
from cbtfs.errors import UsageError
from cbtfs.store.encryption.ring import load_slots, open_master, open_slots
from cbtfs.store.encryption.slots import Master
from cbtfs.store.storing import storing

MakeSlot = Callable[[Master], Slot]
"""Wraps a master key in a new slot."""


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """A key slot, and whether the key given opens it."""

    slot: Slot
    is_current: bool
    """Whether it is of the newest epoch: older slots cannot read new packs."""


def list_slots(path: Path, repository: str) -> list[SlotFacts]:
    """Return the key slots, the oldest first. Needs no key."""
    slots = sorted(load_slots(path, repository), key=lambda slot: (slot.created, slot.id))
    newest = max((slot.epoch for slot in slots), default=0)
    return [SlotFacts(slot, slot.epoch == newest) for slot in slots]


def find_slot(path: Path, repository: str, name: str) -> Slot:
    """Return the slot whose id begins with *name*, or whose label is *name*; else UsageError."""
    slots = load_slots(path, repository)
    found = [slot for slot in slots if slot.label == name]
    if not found and name:
        found = [slot for slot in slots if slot.id.startswith(name)]
    if len(found) != 1:
        what = "no key slot" if not found else f"{len(found)} key slots"
        raise UsageError(f"{what} named {name!r}: run 'cbtfs key list'")
    return found[0]


def add_slot(path: Path, repository: str, make: MakeSlot) -> Slot:
    """Add the slot that *make* returns; the credentials of this process open the repository.

    Raises:
        KeyUnavailable: they do not.
    """
    master = open_master(path, repository)
    if len(load_slots(path, repository)) >= MAX_SLOTS:
        raise UsageError(f"the repository has {MAX_SLOTS} key slots: remove one first")
    slot = make(master)
    put_slot(path, slot)
    return slot


def put_slot(path: Path, slot: Slot) -> None:
    """Write a slot durably."""
    with closing(open_slots(path)) as backend, storing("a key slot"):
        backend.create(slot.id, encode_slot(slot))


def remove_slot(path: Path, slot: Slot) -> None:
    """Remove a slot durably. A key that was known before can still be used."""
    with closing(open_slots(path)) as backend, storing("the key slots"):
        backend.delete(slot.id)
        backend.flush()


def refuse_last(path: Path, repository: str, slot: Slot) -> None:
    """Raise UsageError if *slot* is the only one of its epoch."""
    others = [s for s in load_slots(path, repository) if s.epoch == slot.epoch and s.id != slot.id]
    if not others:
        raise UsageError(
            "this is the only slot that opens the repository: without it all data is lost; add "
            "another one first"
        )


def replace_slot(path: Path, repository: str, old: Slot, make: MakeSlot) -> Slot:
    """Replace a slot by the one that *make* returns: the new one is durable first."""
    slot = add_slot(path, repository, make)
    remove_slot(path, old)
    return slot
