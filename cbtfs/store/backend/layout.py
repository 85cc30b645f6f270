"""Layout of a repository: the only module that maps its parts to backends.

The backends of an encrypted repository encrypt, except for packs, whose frames are encrypted one by
one (store/pack), and except for markers, key slots and repository.json.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from cbtfs.core.keyslot import PreviousEpoch, Slot, encode_epoch, encode_slot
from cbtfs.errors import DataCorrupt
from cbtfs.store.backend.base import Backend, FileBackend
from cbtfs.store.backend.local import Directory, ShardedDirectory
from cbtfs.store.backend.objects import Objects
from cbtfs.store.backend.remote import bucket_of, is_remote, remote_of, tier_bytes
from cbtfs.store.backend.tier import Tier
from cbtfs.store.backend.tiered import Tiered
from cbtfs.store.encryption.known import known_of
from cbtfs.store.encryption.ring import EPOCH_PREFIX, KEYS_DIRECTORY, keys_of, open_slots
from cbtfs.store.files import load_file, make_folder, put_if_absent, replace
from cbtfs.store.folder import Folder, open_folder

PACKS: Final = "packs"
POINTS: Final = "points"
OVERLAYS: Final = "overlays"
INDEXES: Final = "indexes"
STATES: Final = "states"
LOGS: Final = "forgotten"
INTENTS: Final = "intents"
PRUNES: Final = "prunes"
HOLDS: Final = "holds"
BEATS: Final = "beats"
DISTRUST: Final = "distrust"
SHARED: Final = (POINTS, STATES, LOGS, INTENTS, PRUNES, OVERLAYS, HOLDS, BEATS, DISTRUST)
"""Places of a repository with shared writers."""
LOCKS: Final = "locks"
TIER: Final = "tier"
SETTINGS: Final = "repository.json"
TRUSTED: Final = "trusted"
RECORDS: Final = ("quarantine", "verified", TRUSTED)
"""Records beside the directories."""
LARGEST_RECORD: Final = 1 << 30
"""Maximum size of the record of trusted packs; the others have at most MAX_BYTES."""


def _sealing(
    repository: Path, name: str, backend: FileBackend, *, is_large: bool = False
) -> FileBackend:
    """Return *backend*, or one that encrypts if the repository is encrypted.

    Raises:
        KeyUnavailable: no key fits; the backend is closed.
    """
    try:
        keys = keys_of(repository)
    except BaseException:
        backend.close()
        raise
    if keys is None:
        return backend
    from cbtfs.store.encryption.files import SealedBackend

    known = known_of(keys.repository)
    return SealedBackend(backend, keys, name, is_large=is_large, known=known)


def _objects(repository: Path, name: str) -> Objects | None:
    """Return the objects of a place in a bucket; None if the repository is in a directory."""
    url = remote_of(repository)
    return None if url is None else Objects(bucket_of(repository, url), name)


def _sealed_objects(repository: Path, name: str, *, is_large: bool = False) -> Backend | None:
    """Return _objects(), encrypted if the repository is; KeyUnavailable if no key fits."""
    objects = _objects(repository, name)
    keys = None if objects is None else keys_of(repository)
    if objects is None or keys is None:
        return objects
    from cbtfs.store.encryption.files import SealedObjects

    known = known_of(keys.repository)
    return SealedObjects(objects, keys, name, is_large=is_large, known=known)


def open_packs(repository: Path, *, is_verifying: bool = False) -> Backend:
    """Return the packs of a repository; DataCorrupt if their directory is missing or a link.

    A reader that *is_verifying* gets no bytes of the local copies of a bucket.
    """
    objects = _objects(repository, PACKS)
    if objects is not None and is_verifying:
        return objects
    if objects is not None:
        return Tiered(objects, Tier(repository / TIER, tier_bytes()))
    return ShardedDirectory(open_folder(repository / PACKS))


def open_points(repository: Path) -> FileBackend:
    """Return the points of a repository; DataCorrupt if their directory is missing or a link."""
    return _sealing(repository, POINTS, Directory(open_folder(repository / POINTS)))


def open_pins(repository: Path) -> Backend:
    """Return the pins of a repository.

    Raises:
        FileNotFoundError: there is no directory of pins.
        DataCorrupt: it is a link.
    """
    objects = _sealed_objects(repository, OVERLAYS)
    if objects is not None:
        return objects
    return _sealing(repository, OVERLAYS, Directory(Folder(repository / OVERLAYS)))


def open_place(repository: Path, name: str) -> FileBackend:
    """Return one of the places of SHARED; DataCorrupt if its directory is missing or a link."""
    return _sealing(repository, name, Directory(open_folder(repository / name)))


def open_objects(repository: Path, name: str) -> Backend:
    """Return one of the places of SHARED, in a directory or a bucket."""
    return _sealed_objects(repository, name) or open_place(repository, name)


def make_shared_places(repository: Path) -> None:
    """Create the places of SHARED durably, unless they exist."""
    for name in SHARED:
        make_folder(repository / name)


def open_indexes(repository: Path) -> Backend:
    """Return the indexes of files of a repository.

    Raises:
        FileNotFoundError: there is no directory of indexes.
        DataCorrupt: it is a link.
    """
    objects = _sealed_objects(repository, INDEXES, is_large=True)
    if objects is not None:
        return objects
    backend = Directory(Folder(repository / INDEXES))
    return _sealing(repository, INDEXES, backend, is_large=True)


@contextmanager
def indexes_locked(repository: Path) -> Iterator[None]:
    """Hold the lock under which programs on this host replace indexes of files."""
    name = LOCKS if is_remote(repository) else INDEXES
    with closing(Directory(Folder(repository / name))) as backend, backend.locked():
        yield


def open_directory(repository: Path, name: str) -> FileBackend:
    """Return points/ or packs/ itself, which have a marker, without encryption.

    Raises:
        FileNotFoundError: it does not exist.
        DataCorrupt: it is a link.
    """
    return Directory(Folder(repository / name))


def has_directory(repository: Path, name: str) -> bool:
    """Return whether points/ or packs/ exists."""
    return (repository / name).is_dir()


def make_pins(repository: Path) -> None:
    """Create the place of pins durably, unless it exists."""
    if is_remote(repository):
        return
    make_folder(repository / OVERLAYS)


def make_indexes(repository: Path) -> None:
    """Create the place of indexes durably, unless it exists."""
    if is_remote(repository):
        return
    make_folder(repository / INDEXES)


def load_record(repository: Path, name: str, limit: int) -> bytes:
    """Return the bytes of settings or of a record of a repository, at most *limit* + 1.

    Raises:
        FileNotFoundError: it does not exist.
        NotADirectoryError: the repository is not a directory.
        DataCorrupt: it is not a regular file, or it cannot be read.
    """
    keys = None if name == SETTINGS else keys_of(repository)
    if keys is None:
        return load_file(repository / name, limit)
    from cbtfs.store.encryption.files import LARGEST, FileDamaged, bound_name, open_file

    largest = max(limit, LARGEST)
    data = load_file(repository / name, largest)
    try:
        return open_file(keys, bound_name("", name), data, largest)
    except ValueError as exc:
        raise FileDamaged(str(exc)) from exc


def load_outer(repository: Path, name: str) -> bytes:
    """Return a record as it is stored, maybe encrypted; raises what load_record() raises."""
    return load_file(repository / name, LARGEST_RECORD)


def has_record(repository: Path, name: str) -> bool:
    """Return whether a repository has this record."""
    return (repository / name).exists()


def create_record(repository: Path, name: str, data: bytes) -> None:
    """Create settings durably; FileExistsError if they exist."""
    put_if_absent(repository / name, data)


def save_record(repository: Path, name: str, data: bytes) -> None:
    """Create or replace settings or a record durably; a crash leaves the old or the new one."""
    keys = None if name == SETTINGS else keys_of(repository)
    if keys is not None:
        from cbtfs.store.encryption.files import bound_name, next_revision, revision_of, seal_file

        previous = None
        with suppress(OSError, DataCorrupt):
            previous = revision_of(load_file(repository / name, LARGEST_RECORD))
        data = seal_file(keys, bound_name("", name), data, next_revision(previous))
    replace(repository / name, data)


def create_slots(repository: Path, epoch: PreviousEpoch, slots: Iterable[Slot]) -> None:
    """Create the place of key slots durably, with *slots* and the file of the first epoch."""
    make_folder(repository / KEYS_DIRECTORY)
    with closing(open_slots(repository)) as backend:
        backend.create(f"{EPOCH_PREFIX}{epoch.epoch}", encode_epoch(epoch))
        for slot in slots:
            backend.create(slot.id, encode_slot(slot))


def rekey(repository: Path) -> int:
    """Encrypt the files of older key epochs again; return their number. Only for the writer."""
    keys = keys_of(repository)
    if keys is None:
        return 0
    from cbtfs.store.encryption.rotate import rekey_files

    return rekey_files(repository, keys, RECORDS)


def seal_indexes(repository: Path) -> None:
    """Encrypt indexes of files that capture keys could read again. Only for the writer."""
    keys = keys_of(repository)
    assert keys is not None
    from cbtfs.store.encryption.rotate import seal_indexes_again

    seal_indexes_again(repository, keys, INDEXES)


def create_places(repository: Path) -> None:
    """Create the places of packs and points durably, unless they exist."""
    for name in (PACKS, POINTS):
        make_folder(repository / name)
