"""Signatures of packs: they tell who wrote a pack (docs/format.md, "Signed packs").

A program that can read content signs with a key that follows from the master key. Each capture key
has a key of its own. So a writer knows which packs come from a program that verifies content, and
which are its own.
"""

import hashlib
import struct
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cbtfs.core.frame import SIGNATURE_BYTES

PUBLIC_BYTES: Final = 32
_PACK: Final = b"cbtfs signed pack"
_LIST: Final = b"cbtfs trusted packs"


class Signer:
    """A private key for signatures."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "Signer(…)"

    def sign_pack(self, identity: bytes) -> bytes:
        """Return the signature of a pack: public key and signature."""
        return self.public + self._key.sign(_PACK + identity)

    def sign_list(self, content: bytes) -> bytes:
        """Return the signature of a list of trusted packs."""
        return self.public + self._key.sign(_LIST + content)


def pack_identity(ids: bytes, epoch: int, wrapped: bytes, trailer: bytes) -> bytes:
    """Return 32 bytes that no pack with another key or another trailer has.

    *ids* are those of repository and pack. The tags of chunks bind their content to *wrapped*, the
    encrypted key of the pack, and the trailer has their digests.
    """
    return hashlib.sha256(ids + struct.pack("<I", epoch) + wrapped + trailer).digest()


def signer_of_pack(signature: bytes, identity: bytes) -> bytes | None:
    """Return the public key of the signer; None if the signature is not valid."""
    return _verified(signature, _PACK + identity)


def signer_of_list(signature: bytes, content: bytes) -> bytes | None:
    """Return the public key that signed a list of trusted packs; None if it is not valid."""
    return _verified(signature, _LIST + content)


def _verified(signature: bytes, message: bytes) -> bytes | None:
    if len(signature) != SIGNATURE_BYTES:
        return None
    public = signature[:PUBLIC_BYTES]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature[PUBLIC_BYTES:], message)
    except (InvalidSignature, ValueError):
        return None
    return public
