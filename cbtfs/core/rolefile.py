"""The text of a key file of a role: the keys that its holder may have (docs/format.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cbtfs.core.fields import digest_of, id_of, integer, mapping, moment, text
from cbtfs.core.sealed import seal, unseal

FORMAT: Final = "cbtfs role key"
_VERSION: Final = 1
_MARK: Final = b'"format":"cbtfs role key"'


class Role(StrEnum):
    """Scope of the keys that a process has for a repository."""

    ADMIN = "admin"
    """The master key: everything."""
    READ = "read"
    """Every operation but those on key slots."""
    CAPTURE = "capture"
    """Metadata, and content only in one direction: it can be written and not read."""


@dataclass(frozen=True, slots=True)
class RoleEpoch:
    """Keys of one epoch, 32 bytes each."""

    meta: bytes
    public: bytes
    """X25519: encrypts the keys of new packs."""
    signer: bytes
    """Ed25519: verifies the signatures of programs that can read content."""
    private: bytes | None
    """X25519; None in a capture key."""

    def __repr__(self) -> str:
        return "RoleEpoch(…)"


@dataclass(frozen=True, slots=True)
class RoleFile:
    """The content of a key file of a role."""

    repository: str
    role: Role
    epoch: int
    """The newest epoch."""
    created: str
    """RFC 3339, UTC."""
    digest: bytes
    seed: bytes
    """Ed25519 private key, which signs new packs."""
    epochs: Mapping[int, RoleEpoch]

    def __post_init__(self) -> None:
        if self.role is Role.ADMIN:
            raise ValueError("a master key is not a role key")
        if self.epoch != len(self.epochs) or sorted(self.epochs) != [*range(1, self.epoch + 1)]:
            raise ValueError("an epoch is missing")
        if any((of.private is None) != (self.role is Role.CAPTURE) for of in self.epochs.values()):
            raise ValueError("its keys are not those of its role")

    def __repr__(self) -> str:
        return f"RoleFile({self.repository}, {self.role}, …)"


def is_role_file(data: bytes) -> bool:
    """Return whether *data* is meant to be a key file of a role."""
    return _MARK in data


def encode_role_file(file: RoleFile, comment: str) -> str:
    """Return the text of a key file; *comment* explains it, in lines."""
    document = {
        "format": FORMAT,
        "version": _VERSION,
        "repository": file.repository,
        "role": str(file.role),
        "epoch": file.epoch,
        "created": file.created,
        "digest": file.digest.hex(),
        "seed": file.seed.hex(),
        "epochs": {
            str(epoch): {
                "meta": of.meta.hex(),
                "public": of.public.hex(),
                "signer": of.signer.hex(),
                "private": None if of.private is None else of.private.hex(),
            }
            for epoch, of in sorted(file.epochs.items())
        },
    }
    head = "".join(f"# {line}\n" if line else "#\n" for line in comment.splitlines())
    return head + seal(document).decode()


def decode_role_file(data: bytes) -> RoleFile:
    """Return the keys in a key file of a role; ValueError if it is damaged or too new."""
    lines = [line for line in data.splitlines() if line.strip() and not line.startswith(b"#")]
    if len(lines) != 1:
        raise ValueError(f"it has {len(lines)} lines that are not comments")
    document = unseal(lines[0] + b"\n")
    if document.get("format") != FORMAT or integer(document, "version") != _VERSION:
        raise ValueError("it is of another version")
    return RoleFile(
        repository=id_of(document, "repository"),
        role=Role(text(document, "role")),
        epoch=integer(document, "epoch"),
        created=moment(document, "created"),
        digest=digest_of(document, "digest"),
        seed=digest_of(document, "seed"),
        epochs={int(number): _epoch(of) for number, of in mapping(document, "epochs").items()},
    )


def _epoch(document: Any) -> RoleEpoch:
    if not isinstance(document, dict):
        raise ValueError("an epoch is no object")
    private = None if document.get("private") is None else digest_of(document, "private")
    meta, public = digest_of(document, "meta"), digest_of(document, "public")
    return RoleEpoch(meta, public, digest_of(document, "signer"), private)
