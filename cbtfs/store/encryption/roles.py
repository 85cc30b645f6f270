"""Key files of roles: made from the master keys, and the keys that follow from them."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from cbtfs.core.moment import format_moment
from cbtfs.core.rolefile import Role, RoleEpoch, RoleFile, encode_role_file
from cbtfs.store.encryption.keys import (
    KEY_BYTES,
    EpochKeys,
    Keys,
    derive,
    keys_of_masters,
    signing_seed,
)
from cbtfs.store.encryption.sheet import write_new
from cbtfs.store.encryption.signatures import Signer

SHOWN_DIGITS: Final = 8
"""Digits of a signer's public key that name a capture key."""
_COMMENTS: Final[Mapping[Role, str]] = {
    Role.CAPTURE: """\
Capture key {name} of the cbtfs repository {repository}, written {when}
Whoever has this file can write restore points and read names, sizes and block
maps. They cannot read the content of disks.
""",
    Role.READ: """\
Read key of the cbtfs repository {repository}, written {when}
Whoever has this file can read all data of the repository.
""",
}


def shown_signer(public: bytes) -> str:
    """Return the name of the key that signed a pack, as users see it."""
    return public.hex()[:SHOWN_DIGITS]


def make_role(repository: str, role: Role, masters: Mapping[int, bytes], digest: bytes) -> RoleFile:
    """Return the keys of a role; a capture key gets a new key for its signatures."""
    keys = keys_of_masters(repository, masters, digest)
    epochs = {
        epoch: RoleEpoch(
            of.meta,
            of.public.public_bytes_raw(),
            of.signer,
            derive(masters[epoch], repository, "data") if role is Role.READ else None,
        )
        for epoch, of in keys.epochs.items()
    }
    created = format_moment(datetime.now(UTC).replace(microsecond=0))
    seed = signing_seed(masters[keys.epoch], repository)
    if role is Role.CAPTURE:
        seed = secrets.token_bytes(KEY_BYTES)
    return RoleFile(repository, role, keys.epoch, created, digest, seed, epochs)


def write_role(path: Path, file: RoleFile) -> None:
    """Create a key file durably, readable by its owner alone; UsageError if it exists."""
    name = shown_signer(Signer(file.seed).public)
    comment = _COMMENTS[file.role].format(name=name, repository=file.repository, when=file.created)
    write_new(path, encode_role_file(file, comment))


def keys_of_role(file: RoleFile) -> Keys:
    """Return the keys in a key file of a role."""
    epochs = {
        epoch: EpochKeys(
            of.meta,
            X25519PublicKey.from_public_bytes(of.public),
            None if of.private is None else X25519PrivateKey.from_private_bytes(of.private),
            of.signer,
        )
        for epoch, of in file.epochs.items()
    }
    return Keys(file.repository, file.epoch, file.digest, epochs, file.role, Signer(file.seed))
