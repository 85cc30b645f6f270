"""Key slots: documents that hold a repository's master key, encrypted (docs/format.md)."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from cbtfs.core.fields import id_of, integer, mapping, moment, optional, text
from cbtfs.core.sealed import seal, unseal

SLOT_FORMAT: Final = "cbtfs key slot"
EPOCH_FORMAT: Final = "cbtfs key epoch"
VERSION: Final = 1
MAX_SLOT_BYTES: Final = 1 << 17
MAX_SLOTS: Final = 64
"""Slots that a program tries: each passphrase costs a second."""
_MAX_WRAPPED: Final = 1 << 16


class SlotKind(StrEnum):
    """The thing that opens a slot."""

    PASSPHRASE = "passphrase"
    FILE = "file"
    AGE = "age"
    COMMAND = "command"


class UnknownSlot(ValueError):
    """Raised for a slot of another version or kind."""


@dataclass(frozen=True, slots=True)
class Argon2:
    """Parameters of Argon2id. Invalid values cannot be constructed: a slot may be planted."""

    memory_kib: int
    passes: int
    lanes: int
    salt: str
    """32 hex digits."""

    def __post_init__(self) -> None:
        if not 8 << 10 <= self.memory_kib <= 1 << 20:
            raise ValueError(f"Argon2 memory of {self.memory_kib} KiB is not 8 MiB to 1 GiB")
        if not 1 <= self.passes <= 16 or not 1 <= self.lanes <= 16:
            raise ValueError(f"Argon2 with {self.passes} passes and {self.lanes} lanes, 1 to 16")
        if len(bytes.fromhex(self.salt)) != 16:
            raise ValueError("the salt of Argon2 has no 16 bytes")


@dataclass(frozen=True, slots=True)
class Slot:
    """A master key, encrypted for one passphrase, key file, recipient or program."""

    id: str
    repository: str
    epoch: int
    kind: SlotKind
    label: str
    created: str
    wrapped: bytes
    """The master key, encrypted."""
    commitment: bytes
    """Proves that a decrypted key is the right one."""
    argon2: Argon2 | None = None
    """Only of a passphrase."""
    recipient: str | None = None
    """Only of age."""


@dataclass(frozen=True, slots=True)
class PreviousEpoch:
    """The key before that of *epoch*, encrypted under it: a master key, or the digest key."""

    repository: str
    epoch: int
    wrapped: bytes


def encode_slot(slot: Slot) -> bytes:
    document = {**asdict(slot), "format": SLOT_FORMAT, "version": VERSION}
    document["wrapped"] = base64.b64encode(slot.wrapped).decode()
    document["commitment"] = slot.commitment.hex()
    return seal(document)


def decode_slot(data: bytes) -> Slot:
    """Return the slot in a sealed file; ValueError if it is invalid."""
    document = _open(data, SLOT_FORMAT)
    try:
        kind = SlotKind(text(document, "kind"))
    except ValueError as exc:
        raise UnknownSlot(f"unknown kind of key slot {document.get('kind')!r}") from exc
    parameters = optional(document, "argon2", mapping)
    argon2 = None
    if parameters is not None:
        argon2 = Argon2(
            integer(parameters, "memory_kib"),
            integer(parameters, "passes"),
            integer(parameters, "lanes"),
            text(parameters, "salt"),
        )
    if (kind is SlotKind.PASSPHRASE) != (argon2 is not None):
        raise ValueError("only the slot of a passphrase has parameters of Argon2")
    return Slot(
        id_of(document, "id"),
        id_of(document, "repository"),
        integer(document, "epoch"),
        kind,
        text(document, "label"),
        moment(document, "created"),
        _wrapped(document),
        bytes.fromhex(text(document, "commitment")),
        argon2,
        optional(document, "recipient", text),
    )


def encode_epoch(epoch: PreviousEpoch) -> bytes:
    return seal(
        {
            "format": EPOCH_FORMAT,
            "version": VERSION,
            "repository": epoch.repository,
            "epoch": epoch.epoch,
            "wrapped": base64.b64encode(epoch.wrapped).decode(),
        }
    )


def decode_epoch(data: bytes) -> PreviousEpoch:
    """Return the content of the file of an epoch; ValueError if it is invalid."""
    document = _open(data, EPOCH_FORMAT)
    return PreviousEpoch(
        id_of(document, "repository"), integer(document, "epoch"), _wrapped(document)
    )


def _open(data: bytes, form: str) -> Mapping[str, Any]:
    document = unseal(data)
    if document.get("format") != form:
        raise ValueError(f"not a {form}")
    if integer(document, "version") != VERSION:
        raise UnknownSlot(f"{form} of version {document['version']}")
    return document


def _wrapped(document: Mapping[str, Any]) -> bytes:
    try:
        wrapped = base64.b64decode(text(document, "wrapped"), validate=True)
    except binascii.Error as exc:
        raise ValueError("member 'wrapped' is not base64") from exc
    if not 0 < len(wrapped) <= _MAX_WRAPPED:
        raise ValueError("member 'wrapped' has an invalid length")
    return wrapped
