"""Keys for a child process that is started with a clean environment: through a pipe."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cbtfs.store.encryption.ring import held, hold

if TYPE_CHECKING:
    from cbtfs.store.encryption.keys import Keys

NO_KEYS: Final = -1
_MAX_BYTES: Final = 1 << 20


@contextmanager
def keys_for_child() -> Iterator[int]:
    """Yield a descriptor from which a child takes the keys of this process; NO_KEYS without keys.

    The child gets it by its number; the caller passes it on, and it is closed at the end.
    """
    known = held()
    if not known:
        yield NO_KEYS
        return
    fd = os.memfd_create("cbtfs keys", os.MFD_CLOEXEC)
    try:
        os.write(fd, json.dumps([_document(keys) for keys in known]).encode())
        yield fd
    finally:
        os.ftruncate(fd, 0)
        os.close(fd)


def take_keys(fd: int) -> None:
    """Hold the keys that the parent passed on *fd*, and close it; does nothing for NO_KEYS."""
    if fd == NO_KEYS:
        return
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    from cbtfs.core.rolefile import Role
    from cbtfs.store.encryption.keys import EpochKeys, Keys
    from cbtfs.store.encryption.signatures import Signer

    data = os.pread(fd, _MAX_BYTES, 0)
    os.close(fd)
    for document in json.loads(data):
        epochs = {}
        for epoch, (meta, public, private, reader) in document["epochs"].items():
            epochs[int(epoch)] = EpochKeys(
                bytes.fromhex(meta),
                X25519PublicKey.from_public_bytes(bytes.fromhex(public)),
                X25519PrivateKey.from_private_bytes(bytes.fromhex(private)) if private else None,
                bytes.fromhex(reader),
            )
        digest = bytes.fromhex(document["digest"])
        signer, role = Signer(bytes.fromhex(document["seed"])), Role(document["role"])
        known = Keys(document["repository"], document["epoch"], digest, epochs, role, signer)
        hold(known.signing(document["signs"]))


def _document(keys: "Keys") -> dict[str, object]:
    epochs = {
        epoch: (
            of.meta.hex(),
            of.public.public_bytes_raw().hex(),
            "" if of.private is None else of.private.private_bytes_raw().hex(),
            of.signer.hex(),
        )
        for epoch, of in keys.epochs.items()
    }
    return {
        "repository": keys.repository,
        "epoch": keys.epoch,
        "digest": keys.digest.hex(),
        "role": str(keys.role),
        "seed": keys.signer.seed.hex(),
        "signs": keys.signs,
        "epochs": epochs,
    }
