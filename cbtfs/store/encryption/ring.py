"""The keys that this process has: each repository is unlocked once, whatever the number of threads.

The keys of a repository stay in memory until the process ends, and its forks inherit them.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cbtfs.core.ids import is_id
from cbtfs.core.keyfile import MAX_KEY_FILE_BYTES
from cbtfs.core.keyslot import (
    MAX_SLOT_BYTES,
    MAX_SLOTS,
    PreviousEpoch,
    Slot,
    SlotKind,
    UnknownSlot,
    decode_epoch,
    decode_slot,
)
from cbtfs.core.rolefile import RoleFile, decode_role_file, is_role_file
from cbtfs.core.settings import Settings, decode_settings
from cbtfs.errors import CbtfsError, DataCorrupt, KeyUnavailable, UsageError
from cbtfs.store.backend.local import Directory
from cbtfs.store.encryption.dumps import forbid_dumps
from cbtfs.store.encryption.known import (
    refuse_downgrade,
    refuse_unsigned,
    see_encrypted,
    see_signatures,
)
from cbtfs.store.files import load_file
from cbtfs.store.folder import Folder

if TYPE_CHECKING:
    from cbtfs.store.encryption.keys import EpochKeys, Keys
    from cbtfs.store.encryption.slots import Master

KEYS_DIRECTORY: Final = "keys"
EPOCH_PREFIX: Final = "epoch-"
_SETTINGS: Final = "repository.json"
_MAX_SETTINGS_BYTES: Final = 1 << 16
_HOW: Final = (
    "use --key-file or --passphrase-file, or set CBTFS_KEY_FILE, CBTFS_PASSPHRASE_FILE or "
    "CBTFS_KEY_COMMAND"
)
_RETRY_SECONDS: Final = 60.0
"""Time between two searches for the key of an unknown epoch: a passphrase takes a second."""

_lock = threading.RLock()
_unlocked: dict[str, "Keys"] = {}
"""Keys by the id of their repository."""
_seen: set[tuple[Path, bool]] = set()
"""Directories that are remembered as encrypted, and whether as repositories with capture keys."""
_Stamp = tuple[int, int, int, int, int]
_loaded: dict[Path, tuple[_Stamp, Settings]] = {}
"""Settings by the path of their repository, and the facts of the file that had them."""


class KeyNotGiven(KeyUnavailable):
    """Raised for an encrypted repository if there is no source of a key."""


def keys_of(path: Path) -> "Keys | None":
    """Return the keys of the repository at *path*; None if it is not encrypted.

    Raises:
        KeyUnavailable: no key was given, or none that fits.
        DataCorrupt: the settings are damaged, contradict the key slots, or deny an encryption or
            capture keys that this client has seen.
    """
    settings = _settings(path)
    if settings is None:
        return None
    if not settings.is_encrypted:
        if (path / KEYS_DIRECTORY).exists():
            raise DataCorrupt(
                f"{path} has key slots, but {_SETTINGS} does not say that it is encrypted: "
                f"restore {_SETTINGS} from a copy"
            )
        refuse_downgrade(path)
        return None
    with _lock:
        keys = _unlocked.get(settings.id)
        if keys is None:
            keys = _unlock(path, settings.id)
        signs = settings.has_signatures
        if (path, signs) not in _seen:
            see_encrypted(path, settings.id)
            if signs:
                see_signatures(path, settings.id)
                _seen.discard((path, False))
            else:
                refuse_unsigned(path, settings.id)
            _seen.add((path, signs))
        keys = _unlocked[settings.id] = keys.signing(signs)
        return keys


def renew(path: Path) -> None:
    """Unlock the repository again if its key was rotated since. Only for the writer.

    Else a process that unlocked it before would write packs with the old key.

    Raises:
        KeyUnavailable: no key given is of the newest epoch.
        DataCorrupt: the settings are damaged.
    """
    settings = _settings(path)
    keys = None if settings is None or not settings.is_encrypted else _unlocked.get(settings.id)
    if keys is None:
        return
    newest = max((slot.epoch for slot in load_slots(path, keys.repository)), default=0)
    if newest > keys.epoch:
        with _lock:
            keys = _unlocked[keys.repository] = _unlock(path, keys.repository)
    refuse_old(keys.epoch, newest)


def refuse_old(epoch: int, newest: int) -> None:
    """Raise KeyUnavailable if a key of *epoch* is older than the newest slot."""
    if epoch < newest:
        raise KeyUnavailable(
            f"the key was rotated, and the one given is of the old epoch {epoch}: give the key of "
            f"a slot of epoch {newest}, see 'cbtfs key list'"
        )


def require_content(path: Path) -> None:
    """Raise KeyUnavailable if the key given for the repository at *path* cannot read content.

    Does nothing if there is no repository, or one whose settings cannot be read.
    """
    try:
        settings = _settings(path)
    except DataCorrupt:
        return
    if settings is None or not settings.has_signatures:
        return
    keys = keys_of(path)
    if keys is not None and not keys.can_read:
        raise KeyUnavailable(
            f"the key given for {path} is a capture key, which cannot read the content of disks: "
            "give a key that can"
        )


def can_read(path: Path) -> bool:
    """Return whether this process can read the content of the repository at *path*.

    Raises what keys_of() raises.
    """
    keys = keys_of(path)
    return keys is None or keys.can_read


def can_unlock(path: Path) -> bool:
    """Return whether the repository at *path* is readable; False if no key was given at all.

    Raises:
        KeyUnavailable: keys were given, and none fits.
    """
    try:
        unlock(path)
    except KeyNotGiven:
        return False
    return True


def unlock(path: Path) -> None:
    """Get the keys of the repository at *path* now: before a fork, or before a prompt is too late.

    Raises what keys_of() raises.
    """
    keys_of(path)


def is_encrypted(path: Path) -> bool:
    """Return whether the repository at *path* is encrypted; False if there is none."""
    settings = _settings(path)
    return settings is not None and settings.is_encrypted


def hold(keys: "Keys") -> None:
    """Keep the keys of a new repository."""
    forbid_dumps()
    with _lock:
        _unlocked[keys.repository] = keys


def held() -> list["Keys"]:
    """Return the keys of all repositories that this process has unlocked."""
    with _lock:
        return list(_unlocked.values())


def drop_all() -> None:
    """Forget all keys, so that the next use of a repository unlocks it."""
    with _lock:
        _unlocked.clear()
        _seen.clear()
        _loaded.clear()


def _settings(path: Path) -> Settings | None:
    try:
        return load_settings_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as exc:
        raise DataCorrupt(f"{path / _SETTINGS} is damaged: {exc}; restore it from a copy") from exc


def load_settings_file(path: Path) -> Settings:
    """Return the settings of the repository at *path*, which are read again if the file changed.

    The file is replaced only to add a feature, so two versions also differ in size.

    Raises:
        FileNotFoundError: it does not exist.
        NotADirectoryError: the repository is not a directory.
        ValueError: its content is damaged, or UnknownFormat.
        DataCorrupt: it is not a regular file, or it cannot be read.
    """
    stamp, known = _stamp(path / _SETTINGS), _loaded.get(path)
    if stamp is not None and known is not None and known[0] == stamp:
        return known[1]
    settings = decode_settings(load_file(path / _SETTINGS, _MAX_SETTINGS_BYTES))
    if stamp is not None:
        _loaded[path] = stamp, settings
    return settings


def _stamp(file: Path) -> _Stamp | None:
    """Return facts that differ between two versions of a file; None if they are unknown."""
    try:
        facts = os.stat(file, follow_symlinks=False)
    except OSError:
        return None  # load_file() says why.
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _unlock(path: Path, repository: str, *, may_prompt: bool = True) -> "Keys":
    from cbtfs.store.encryption.keys import keys_of_masters

    file = role_file(path, repository)
    if file is not None:
        from cbtfs.store.encryption.roles import keys_of_role

        _refuse_rotated(path, file)
        return keys_of_role(file)
    opened = open_slot(path, repository, may_prompt=may_prompt)
    masters, digest = all_masters(path, opened.master)
    keys = keys_of_masters(repository, masters, digest)
    return replace(keys, epochs=_Epochs(path, repository, keys.epochs))


class _Epochs(dict[int, "EpochKeys"]):
    """The keys of all epochs; an epoch of a later rotation is looked for when it is needed.

    So a mount reads what is written after a rotation, if its key still fits and nobody is asked.
    """

    def __init__(self, path: Path, repository: str, epochs: Mapping[int, "EpochKeys"]) -> None:
        super().__init__(epochs)
        self._path = path.absolute()
        self._repository = repository
        self._next_attempt = -math.inf

    def __missing__(self, epoch: int) -> "EpochKeys":
        with _lock:
            if epoch not in self and time.monotonic() >= self._next_attempt:
                self._next_attempt = time.monotonic() + _RETRY_SECONDS
                with suppress(CbtfsError, OSError):
                    self.update(_unlock(self._path, self._repository, may_prompt=False).epochs)
        if epoch not in self:
            raise KeyError(epoch)
        return self[epoch]


def role_file(path: Path, repository: str) -> RoleFile | None:
    """Return the first key file of a role among those given that is of this repository.

    Raises:
        UsageError: a key file is damaged.
    """
    from cbtfs.store.encryption import credentials as sources

    for file in sources.credentials().key_files:
        data = sources.load_private(file, MAX_KEY_FILE_BYTES)
        if is_role_file(data):
            try:
                found = decode_role_file(data)
            except ValueError as exc:
                raise UsageError(f"the key file {file} is damaged: {exc}") from exc
            if found.repository == repository:
                return found
    return None


def _refuse_rotated(path: Path, file: RoleFile) -> None:
    newest = max((slot.epoch for slot in load_slots(path, file.repository)), default=0)
    if newest > file.epoch:
        raise KeyUnavailable(
            f"the {file.role} key given for {path} is of key epoch {file.epoch}, and the key was "
            f"rotated to epoch {newest}: export a new one with 'cbtfs key export'"
        )


def all_masters(path: Path, newest: "Master") -> tuple[dict[int, bytes], bytes]:
    """Return the master keys of all epochs up to that of *newest*, and the digest key.

    Raises:
        KeyUnavailable: the file of an epoch is missing or damaged.
    """
    from cbtfs.store.encryption.slots import Master, open_previous

    masters = dict[int, bytes]()
    key = newest.key
    for epoch in range(newest.epoch, 0, -1):
        masters[epoch] = key
        master = Master(newest.repository, epoch, key)
        key = open_previous(master, load_epoch(path, epoch))
    return masters, key


class Opened(NamedTuple):
    """A key slot that was opened, and its master key."""

    slot: Slot
    master: "Master"


def open_master(path: Path, repository: str) -> "Master":
    """Return the newest master key that the credentials of this process open; as open_slot()."""
    return open_slot(path, repository).master


def open_slot(path: Path, repository: str, *, may_prompt: bool = True) -> Opened:
    """Return a slot of the newest epoch that the credentials of this process open.

    Raises:
        KeyUnavailable: there are no credentials, or none of them fits.
    """
    forbid_dumps()
    slots = sorted(load_slots(path, repository), key=lambda slot: (-slot.epoch, slot.created))
    newest = slots[0].epoch if slots else 0
    tried, best = False, None
    for opened in _attempts(path, repository, slots, may_prompt):
        tried = True
        if opened is not None and (best is None or opened.slot.epoch > best.slot.epoch):
            best = opened
            if opened.slot.epoch == newest:
                break
    if best is not None:
        return best
    if not slots:
        raise KeyUnavailable(
            f"{path} is encrypted, and {KEYS_DIRECTORY}/ has no slot that can be read: restore it "
            "from a copy"
        )
    role = role_file(path, repository)
    if role is not None:
        raise KeyUnavailable(
            f"the key given for {path} is a {role.role} key, which opens no key slot: give a key "
            "file or passphrase of a slot"
        )
    if not tried:
        raise KeyNotGiven(f"{path} is encrypted, and no key was given: {_HOW}")
    raise KeyUnavailable(f"{path} is encrypted, and no key given fits: {_HOW}")


def _attempts(
    path: Path, repository: str, slots: list[Slot], may_prompt: bool
) -> Iterator[Opened | None]:
    """Yield the result of each secret for each slot of its kind; None for each failure."""
    from cbtfs.store.encryption import credentials as sources
    from cbtfs.store.encryption import slots as opening

    def tried(kind: SlotKind, opens: Callable[[Slot], "Master | None"]) -> Iterator[Opened | None]:
        for slot in slots:
            master = opens(slot) if slot.kind is kind else None
            yield None if master is None else Opened(slot, master)

    found = sources.credentials()
    found = replace(found, may_prompt=found.may_prompt and may_prompt)
    for file in found.key_files:
        data = sources.load_private(file, MAX_KEY_FILE_BYTES)
        if is_role_file(data):
            pass  # It opens no slot.
        elif sources.is_age_identity(data):
            yield from tried(SlotKind.AGE, partial(opening.open_with_identity, identities=data))
        else:
            secret = sources.load_key_file(file)
            yield from tried(SlotKind.FILE, partial(opening.open_with_file, secret=secret))
        yield None
    if found.command is not None:
        run = partial(sources.run_key_command, found.command, limit=MAX_SLOT_BYTES)
        yield from tried(SlotKind.COMMAND, partial(opening.open_with_command, unwrap=run))
        yield None
    if any(slot.kind is SlotKind.PASSPHRASE for slot in slots):
        for passphrase in sources.passphrases(found, repository, path):
            opens = partial(opening.open_with_passphrase, passphrase=passphrase)
            yield from tried(SlotKind.PASSPHRASE, opens)
    elif found.passphrase_files:
        yield None


def open_slots(path: Path) -> Directory:
    """Return the key slots of the repository at *path*, which are not encrypted as files.

    Raises:
        KeyUnavailable: there is no directory of slots.
    """
    try:
        return Directory(Folder(path / KEYS_DIRECTORY))
    except FileNotFoundError as exc:
        raise KeyUnavailable(
            f"{path} is encrypted, and {KEYS_DIRECTORY}/ is missing: restore it from a copy"
        ) from exc


def load_slots(path: Path, repository: str) -> list[Slot]:
    """Return the intact key slots of a repository, at most MAX_SLOTS."""
    slots = []
    with closing(open_slots(path)) as backend:
        for name in sorted(filter(is_id, backend.names()))[:MAX_SLOTS]:
            try:
                slot = decode_slot(backend.get(name, 0, MAX_SLOT_BYTES).data)
            except (OSError, UnknownSlot, ValueError, DataCorrupt):
                continue
            if (slot.id, slot.repository) == (name, repository):
                slots.append(slot)
    return slots


def load_epoch(path: Path, epoch: int) -> PreviousEpoch:
    """Return the file of a key epoch; KeyUnavailable if it is missing or damaged."""
    name = f"{EPOCH_PREFIX}{epoch}"
    with closing(open_slots(path)) as backend:
        try:
            return decode_epoch(backend.get(name, 0, MAX_SLOT_BYTES).data)
        except (OSError, ValueError, DataCorrupt) as exc:
            raise KeyUnavailable(
                f"{KEYS_DIRECTORY}/{name} is missing or damaged: restore it from a copy"
            ) from exc
