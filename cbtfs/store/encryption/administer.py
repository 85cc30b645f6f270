"""Adds, removes and tests the key slots of a repository, and rotates its key."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cbtfs.core.keyslot import MAX_SLOTS, Slot, encode_slot
from cbtfs.errors import UsageError
from cbtfs.store.backend.base import FileBackend
from cbtfs.store.backend.remote import refuse_bucket
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


def add_slot(
    path: Path, repository: str, make: MakeSlot, *, instead_of: Slot | None = None
) -> Slot:
    """Add the slot that *make* returns; the credentials of this process open the repository.

    *instead_of* is removed once the new one is durable.

    Raises:
        KeyUnavailable: they do not.
        UsageError: there are too many slots, or another process changed them meanwhile.
    """
    master = open_master(path, repository)
    if instead_of is None:
        _refuse_many(path, repository)
    slot = make(master)  # It may ask for a passphrase: without a lock.
    with _changing(path) as backend:
        slots = load_slots(path, repository)
        if max((known.epoch for known in slots), default=0) > master.epoch:
            raise UsageError("the key was rotated meanwhile: run the command again")
        if instead_of is None:
            _refuse_many(path, repository)
        elif instead_of.id not in {known.id for known in slots}:
            raise UsageError("the slot was removed meanwhile: see 'cbtfs key list'")
        backend.create(slot.id, encode_slot(slot))
        if instead_of is not None:
            backend.delete(instead_of.id)
            backend.flush()
    return slot


def _refuse_many(path: Path, repository: str) -> None:
    if len(load_slots(path, repository)) >= MAX_SLOTS:
        raise UsageError(f"the repository has {MAX_SLOTS} key slots: remove one first")


@contextmanager
def _changing(path: Path) -> Iterator[FileBackend]:
    """Hold the lock of the key slots, without which two processes could remove all slots."""
    refuse_bucket(path)
    with closing(open_slots(path)) as backend, storing("the key slots"), backend.locked():
        yield backend


def remove_slot(path: Path, repository: str, name: str) -> Slot:
    """Remove the slot *name* durably, as find_slot(). A key that was known can still be used.

    Raises:
        KeyUnavailable: the credentials of this process do not open the repository.
        UsageError: there is no such slot, or it is the only one that opens the repository.
    """
    epoch = open_master(path, repository).epoch
    with _changing(path) as backend:
        slot = find_slot(path, repository, name)
        others = [
            known
            for known in load_slots(path, repository)
            if known.epoch == epoch and known.id != slot.id
        ]
        if slot.epoch > epoch:
            raise UsageError(
                "the slot has a newer key than the one given: give the newer key; if the key was "
                f"not rotated, an attacker added the slot: delete keys/{slot.id}"
            )
        if slot.epoch == epoch and not others:
            raise UsageError(
                "this is the only slot that opens the repository: without it all data is lost; add "
                "another one first"
            )
        backend.delete(slot.id)
        backend.flush()
    return slot
