"""Rotation of the master key: a new epoch, and files of older epochs encrypted again."""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from cbtfs.core.ids import is_id
from cbtfs.core.keyfile import MAX_KEY_FILE_BYTES
from cbtfs.core.keyslot import Slot, SlotKind, encode_epoch, encode_slot
from cbtfs.core.rolefile import is_role_file
from cbtfs.errors import DataCorrupt, UsageError
from cbtfs.store.backend.local import Directory
from cbtfs.store.backend.remote import refuse_bucket
from cbtfs.store.encryption import credentials as sources
from cbtfs.store.encryption import ring, slots
from cbtfs.store.encryption.files import (
    LARGEST_INDEX,
    bound_name,
    next_revision,
    open_file,
    revision_of,
    seal_file,
    verify_file,
)
from cbtfs.store.encryption.keys import Keys, keys_of_masters
from cbtfs.store.encryption.slots import Master
from cbtfs.store.folder import Folder
from cbtfs.store.storing import storing

_FOLDERS: Final = ("points", "overlays", "indexes")
_SUFFIXES: Final = ("", ".state", ".forgotten", ".distrusted")


@dataclass(frozen=True, slots=True)
class Rotation:
    """The slots of a new epoch, and those that were removed."""

    epoch: int
    slots: tuple[Slot, ...]
    removed: tuple[Slot, ...]
    """Slots of the old epoch whose secret was not given."""


def rotate(path: Path, repository: str, *, drops_others: bool) -> Rotation:
    """Begin a new epoch with a new master key. Only under the writer's lock.

    Slots whose secrets were given, and those of age recipients, get the new key. The others cannot,
    and are removed if *drops_others*.

    Raises:
        KeyUnavailable: no key given fits.
        UsageError: there are other slots; nothing was changed.
    """
    refuse_bucket(path)
    with closing(ring.open_slots(path)) as backend, storing("the key slots"), backend.locked():
        opened = ring.open_slot(path, repository)
        masters, digest = ring.all_masters(path, opened.master)
        # Slots of an older epoch are left by a rotation that was interrupted.
        old = ring.load_slots(path, repository)
        ring.refuse_old(opened.master.epoch, max(slot.epoch for slot in old))
        new = slots.new_master(repository, opened.master.epoch + 1)
        rewraps = {slot.id: _rewrap(slot) for slot in old}
        others = [slot for slot in old if rewraps[slot.id] is None]
        if others and not drops_others:
            names = ", ".join(f"{slot.label} ({slot.id[:8]})" for slot in others)
            raise UsageError(
                f"the secrets of these key slots were not given: {names}; give their key files and "
                "passphrase files as well, or remove them by --drop-others"
            )
        # One slot for each secret, even if an interrupted rotation made a second one.
        makers = {
            (slot.kind, slot.label, r.secret): r.make for slot in old if (r := rewraps[slot.id])
        }
        if not makers:
            raise UsageError(
                "no key slot would be left: give a key file or a passphrase file of a slot"
            )
        made = [make(new) for make in makers.values()]
        _replace(backend, encode_epoch(slots.previous_epoch(new, opened.master.key)), made, old)
    ring.hold(keys_of_masters(repository, {**masters, new.epoch: new.key}, digest))
    return Rotation(new.epoch, tuple(made), tuple(others))


def _replace(backend: Directory, epoch: bytes, made: Sequence[Slot], old: Sequence[Slot]) -> None:
    """Write the file of a new epoch and its slots, then remove the old slots.

    If a write fails, no slot of the new epoch stays.
    """
    name = f"{ring.EPOCH_PREFIX}{made[0].epoch}"
    try:
        backend.delete(name)  # A rotation that was interrupted has left it; no slot has its key.
        backend.create(name, epoch)
        for slot in made:
            backend.create(slot.id, encode_slot(slot))
    except BaseException:
        for slot in made:
            backend.delete(slot.id)
        raise
    for slot in old:
        backend.delete(slot.id)
    backend.flush()


class Rewrap(NamedTuple):
    """A way to make a slot again for a new key."""

    secret: bytes
    """Secret of the slot, or its age recipient."""
    make: Callable[[Master], Slot]


def _rewrap(slot: Slot) -> Rewrap | None:
    """Return how to make the same slot for a new key; None if its secret is unknown."""
    found, label = sources.credentials(), slot.label
    if slot.kind is SlotKind.AGE and slot.recipient is not None:
        recipient = slot.recipient
        return Rewrap(recipient.encode(), partial(slots.age_slot, label=label, recipient=recipient))
    if slot.kind is SlotKind.FILE:
        for file in found.key_files:
            data = sources.load_private(file, MAX_KEY_FILE_BYTES)
            if sources.is_age_identity(data) or is_role_file(data):
                continue
            secret = sources.load_key_file(file)
            if slots.open_with_file(slot, secret) is not None:
                return Rewrap(secret, partial(slots.file_slot, label=label, secret=secret))
    if slot.argon2 is not None:
        memory = slot.argon2.memory_kib >> 10
        make = partial(slots.passphrase_slot, label=label, memory_mib=memory)
        for file in found.passphrase_files:
            phrase = sources.load_passphrase(file)
            if slots.open_with_passphrase(slot, phrase) is not None:
                return Rewrap(phrase, partial(make, passphrase=phrase))
    return None


def rekey_files(path: Path, keys: Keys, records: Sequence[str]) -> int:
    """Encrypt the files of older epochs again; return their number. Only for the writer.

    A manifest with a lease keeps its file, whose lock is the lease, until a later call.
    """
    count = 0
    for name in _FOLDERS:
        with (
            suppress(FileNotFoundError),
            closing(Directory(Folder(path / name))) as backend,
            storing(f"the files of {name}/"),
            backend.locked(),
        ):
            for file in sorted(backend.names()):
                stem, dot, suffix = file.partition(".")
                if is_id(stem) and dot + suffix in _SUFFIXES:
                    count += _rekey(backend, file, bound_name(name, file), keys)
    with closing(Directory(Folder(path))) as backend, storing("the records"):
        for file in records:
            with suppress(FileNotFoundError):
                count += _rekey(backend, file, bound_name("", file), keys)
    return count


def seal_indexes_again(path: Path, keys: Keys, name: str) -> None:
    """Encrypt the indexes of files under their own key that are encrypted under that of metadata.

    They are in the directory *name*, which may not exist.
    """
    before = keys.signing(False)
    with (
        suppress(FileNotFoundError),
        closing(Directory(Folder(path / name))) as backend,
        storing(f"the files of {name}/"),
        backend.locked(),
    ):
        for file in sorted(filter(is_id, backend.names())):
            bound = bound_name(name, file)
            try:
                data = backend.get(file, 0, LARGEST_INDEX).data
                content = open_file(before, bound, data, LARGEST_INDEX)
            except (ValueError, DataCorrupt, FileNotFoundError):
                continue  # It has its own key, or is damaged.
            revision = next_revision(revision_of(data))
            backend.replace(file, seal_file(keys, bound, content, revision))


def _rekey(backend: Directory, name: str, bound: bytes, keys: Keys) -> bool:
    """Encrypt one file under the newest epoch; False if it is, is leased, or is damaged."""
    with backend.claim(name) as is_free:
        try:
            data = backend.get(name, 0, LARGEST_INDEX).data
            if not is_free or verify_file(data, LARGEST_INDEX) >= keys.epoch:
                return False
            content = open_file(keys, bound, data, LARGEST_INDEX)
        except (ValueError, DataCorrupt, FileNotFoundError):
            return False
        backend.replace(name, seal_file(keys, bound, content, next_revision(revision_of(data))))
    return True
