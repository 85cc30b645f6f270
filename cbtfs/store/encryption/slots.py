"""Opens and makes key slots: each wraps the master key for one secret."""

import secrets
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any, Final

import pyrage
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cbtfs.core.keyslot import Argon2, PreviousEpoch, Slot, SlotKind
from cbtfs.core.moment import format_moment
from cbtfs.errors import KeyUnavailable, OutOfResources, UsageError
from cbtfs.store.encryption.keys import KEY_BYTES, commitment, derive
from cbtfs.store.identity import new_id

DEFAULT_MEMORY_MIB: Final = 256
_PASSES: Final = 3
_LANES: Final = 4
_NONCE_BYTES: Final = 12

_argon2_lock = threading.Lock()
"""One derivation at a time, so that a process never needs the memory of two."""


@dataclass(frozen=True, slots=True)
class Master:
    """The master key of one epoch."""

    repository: str
    epoch: int
    key: bytes

    def __repr__(self) -> str:
        return f"Master({self.repository}, {self.epoch}, …)"


def new_master(repository: str, epoch: int) -> Master:
    return Master(repository, epoch, secrets.token_bytes(KEY_BYTES))


def _bound(repository: str, slot: str, epoch: int, kind: SlotKind) -> bytes:
    ids = bytes.fromhex(repository) + bytes.fromhex(slot)
    return b"cbtfs slot" + ids + struct.pack("<I", epoch) + kind.encode()


def _seal(key: bytes, bound: bytes, data: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, bound)


def _open(key: bytes, bound: bytes, wrapped: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        return None


def _stretched(passphrase: bytes, argon2: Argon2) -> bytes:
    """Return the key of a passphrase; OutOfResources if there is not enough memory."""
    function = Argon2id(
        salt=bytes.fromhex(argon2.salt),
        length=KEY_BYTES,
        iterations=argon2.passes,
        lanes=argon2.lanes,
        memory_cost=argon2.memory_kib,
    )
    with _argon2_lock:
        try:
            return function.derive(passphrase)
        except MemoryError as exc:
            raise OutOfResources(
                f"no memory to derive the key of the passphrase: it takes "
                f"{argon2.memory_kib >> 10} MiB"
            ) from exc


def _file_key(secret: bytes, slot: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, bytes.fromhex(slot), b"cbtfs slot file").derive(secret)


def _slot(
    master: Master, kind: SlotKind, label: str, wrap: Callable[[str], bytes], **more: Any
) -> Slot:
    name = new_id()
    created = format_moment(datetime.now(UTC).replace(microsecond=0))
    proof = commitment(master.key, master.repository, master.epoch)
    return Slot(
        name, master.repository, master.epoch, kind, label, created, wrap(name), proof, **more
    )


def passphrase_slot(
    master: Master, label: str, passphrase: bytes, memory_mib: int = DEFAULT_MEMORY_MIB
) -> Slot:
    """Return a slot for a passphrase; UsageError if the memory of Argon2 is out of bounds."""
    try:
        argon2 = Argon2(memory_mib << 10, _PASSES, _LANES, secrets.token_hex(16))
    except ValueError as exc:
        raise UsageError(f"invalid --kdf-memory {memory_mib}: use 8 to 1024 MiB") from exc
    key = _stretched(passphrase, argon2)
    kind = SlotKind.PASSPHRASE

    def wrap(name: str) -> bytes:
        return _seal(key, _bound(master.repository, name, master.epoch, kind), master.key)

    return _slot(master, kind, label, wrap, argon2=argon2)


def file_slot(master: Master, label: str, secret: bytes) -> Slot:
    """Return a slot for the secret of a key file."""
    kind = SlotKind.FILE

    def wrap(name: str) -> bytes:
        bound = _bound(master.repository, name, master.epoch, kind)
        return _seal(_file_key(secret, name), bound, master.key)

    return _slot(master, kind, label, wrap)


def age_slot(master: Master, label: str, recipient: str) -> Slot:
    """Return a slot for the owner of an age recipient; UsageError if it is invalid."""
    try:
        parsed = pyrage.x25519.Recipient.from_str(recipient)
    except pyrage.RecipientError as exc:
        raise UsageError(f"invalid age recipient {recipient!r}: {exc}") from exc
    wrapped = pyrage.encrypt(master.key, [parsed])
    return _slot(master, SlotKind.AGE, label, lambda _: wrapped, recipient=recipient)


def command_slot(master: Master, label: str, wrap: Callable[[bytes], bytes]) -> Slot:
    """Return a slot whose key was encrypted by a program."""
    wrapped = wrap(master.key)
    if not wrapped or master.key in wrapped:
        raise UsageError("the program did not encrypt the key: its output is empty or has the key")
    return _slot(master, SlotKind.COMMAND, label, lambda _: wrapped)


def _proven(slot: Slot, key: bytes | None) -> Master | None:
    if key is None or len(key) != KEY_BYTES:
        return None
    if not compare_digest(commitment(key, slot.repository, slot.epoch), slot.commitment):
        return None
    return Master(slot.repository, slot.epoch, key)


def open_with_passphrase(slot: Slot, passphrase: bytes) -> Master | None:
    """Return the master key, or None if the passphrase is another one."""
    assert slot.argon2 is not None
    bound = _bound(slot.repository, slot.id, slot.epoch, slot.kind)
    return _proven(slot, _open(_stretched(passphrase, slot.argon2), bound, slot.wrapped))


def open_with_file(slot: Slot, secret: bytes) -> Master | None:
    """Return the master key, or None if the key file is another one."""
    bound = _bound(slot.repository, slot.id, slot.epoch, slot.kind)
    return _proven(slot, _open(_file_key(secret, slot.id), bound, slot.wrapped))


def open_with_identity(slot: Slot, identities: bytes) -> Master | None:
    """Return the master key, or None if none of the age identities fits."""
    parsed = []
    for line in identities.decode(errors="replace").splitlines():
        if line.startswith("AGE-SECRET-KEY-"):
            try:
                parsed.append(pyrage.x25519.Identity.from_str(line.strip()))
            except pyrage.IdentityError as exc:
                raise UsageError(f"invalid age identity: {exc}") from exc
    try:
        return _proven(slot, pyrage.decrypt(slot.wrapped, parsed))
    except pyrage.DecryptError:
        return None


def open_with_command(slot: Slot, unwrap: Callable[[bytes], bytes]) -> Master | None:
    """Return the master key that a program decrypts, or None if it gives another one."""
    return _proven(slot, unwrap(slot.wrapped))


def previous_epoch(master: Master, previous: bytes) -> PreviousEpoch:
    """Return the file of an epoch, from which *master* gives the key *previous*.

    That is the master key of the epoch before; for the first epoch, the digest key.
    """
    key = derive(master.key, master.repository, "previous")
    bound = b"cbtfs epoch" + bytes.fromhex(master.repository) + struct.pack("<I", master.epoch)
    return PreviousEpoch(master.repository, master.epoch, _seal(key, bound, previous))


def open_previous(master: Master, file: PreviousEpoch) -> bytes:
    """Return the key in the file of *master*'s epoch; KeyUnavailable if that fails."""
    key = derive(master.key, master.repository, "previous")
    bound = b"cbtfs epoch" + bytes.fromhex(master.repository) + struct.pack("<I", master.epoch)
    previous = None
    if (file.repository, file.epoch) == (master.repository, master.epoch):
        previous = _open(key, bound, file.wrapped)
    if previous is None or len(previous) != KEY_BYTES:
        raise KeyUnavailable(
            f"the file of key epoch {master.epoch} is damaged or another repository's: restore it "
            "from a copy of keys/"
        )
    return previous
