"""The keys of an encrypted repository, derived from its master keys (docs/format.md).

A repository has one master key for each epoch. The digest key is random and never changes; related
repositories share it. Metadata (names, sizes, block maps) and the content of chunks have separate
keys: a pack's key for chunks is random, and encrypted for a public key, so a program can write
content that it cannot read.
"""

import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cbtfs.core.frame import SEALED_KEY_BYTES, SIGNER_BYTES, TAG_BYTES
from cbtfs.core.ids import PackId
from cbtfs.core.rolefile import Role
from cbtfs.errors import KeyUnavailable
from cbtfs.store.encryption.signatures import Signer, pack_identity

KEY_BYTES: Final = 32
FIRST_EPOCH: Final = 1
MAX_EPOCH: Final = 1 << 16
"""Epochs that a program accepts: each needs the file of its epoch."""

_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_BOUND: Final = struct.Struct("<8s16s16sQBBBBI32sII")
"""Additional data of each piece of a pack; cbtfs/native/aead.c has the same."""
_NONCE: Final = struct.Struct("<QI")
_PREFIX: Final = b"cbtfs\0\1\0"
_TRAILER_PIECE: Final = 0xFFFFFFFE
"""Number of the trailer in its nonce; its offset takes the place of a frame's."""


def derive(master: bytes, repository: str, role: str) -> bytes:
    """Return the key of *role*: HKDF-SHA256 with the repository's id as its salt."""
    salt = bytes.fromhex(repository)
    return HKDF(SHA256(), KEY_BYTES, salt, b"cbtfs " + role.encode()).derive(master)


@dataclass(frozen=True, slots=True)
class EpochKeys:
    """The keys of one epoch."""

    meta: bytes
    public: X25519PublicKey
    private: X25519PrivateKey | None
    """None if this process cannot read the content of chunks."""
    signer: bytes
    """Public key of the signatures of programs that can read content."""

    def of_indexes(self, repository: str) -> bytes:
        """Return the key of indexes of files; KeyUnavailable if these keys cannot read content."""
        if self.private is None:
            raise KeyUnavailable("the key given cannot read names of files: give a key that can")
        return derive(self.private.private_bytes_raw(), repository, "index")

    def __repr__(self) -> str:
        return "EpochKeys(…)"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of a repository, as far as a key slot or a key file gives them."""

    repository: str
    epoch: int
    """The newest epoch, for new packs and files."""
    digest: bytes
    epochs: Mapping[int, EpochKeys]
    role: Role
    signer: Signer
    """Signs new packs."""
    signs: bool = False
    """Whether new packs are signed, because the repository has capture keys."""

    def __repr__(self) -> str:
        return f"Keys({self.repository}, …)"

    @property
    def can_read(self) -> bool:
        """Whether the content of chunks can be decrypted."""
        return self.role is not Role.CAPTURE

    @property
    def pack_signer(self) -> bytes:
        """Signer of new packs for their PackRecord: empty if this process verifies content."""
        return self.signer.public[:SIGNER_BYTES] if self.signs and not self.can_read else b""

    def is_reader(self, signer: bytes) -> bool:
        """Return whether this public key is that of programs that can read content."""
        return any(of.signer == signer for of in self.epochs.values())

    def signing(self, signs: bool) -> "Keys":
        """Return these keys for a repository whose packs are signed, or are not."""
        return self if signs == self.signs else replace(self, signs=signs)

    def of(self, epoch: int) -> EpochKeys:
        """Return the keys of *epoch*; KeyUnavailable if these keys lack it."""
        try:
            return self.epochs[epoch]
        except KeyError:
            raise KeyUnavailable(
                f"the key given lacks key epoch {epoch}: it is older than a key rotation; "
                "give a newer key"
            ) from None

    def new_pack(self, pack: PackId) -> "PackCipher":
        """Return the cipher of a new pack, which has a random key for chunks."""
        data = secrets.token_bytes(KEY_BYTES)
        wrapped = _SUITE.encrypt(data, self.of(self.epoch).public, info=self._info(pack))
        assert len(wrapped) == SEALED_KEY_BYTES
        return PackCipher(self, pack, self.epoch, wrapped, data)

    def pack(self, pack: PackId, epoch: int, wrapped: bytes) -> "PackCipher":
        """Return the cipher of a pack whose header has *epoch* and the key *wrapped*.

        Raises:
            KeyUnavailable: these keys lack that epoch.
            ValueError: the key is damaged, or that of another pack.
        """
        private = self.of(epoch).private
        data = None
        if private is not None:
            try:
                data = _SUITE.decrypt(wrapped, private, info=self._info(pack))
            except (InvalidTag, ValueError) as exc:
                raise ValueError("the key of the pack cannot be decrypted") from exc
            if len(data) != KEY_BYTES:
                raise ValueError("the key of the pack has another length")
        return PackCipher(self, pack, epoch, wrapped, data)

    def _info(self, pack: PackId) -> bytes:
        return b"cbtfs pack" + bytes.fromhex(self.repository) + bytes.fromhex(pack)


class PackCipher:
    """The keys of one pack."""

    def __init__(
        self, keys: Keys, pack: PackId, epoch: int, wrapped: bytes, data: bytes | None
    ) -> None:
        """*data* is the key of chunks; None if it is unknown."""
        self.epoch = epoch
        self.wrapped = wrapped
        self.can_read = data is not None
        """Whether chunks can be decrypted."""
        self._ids = bytes.fromhex(keys.repository) + bytes.fromhex(pack)
        self._pack = pack
        self.signer = keys.signer if keys.signs else None
        """Signs the pack, if it is new; None without signatures."""
        self._meta = blake3(b"cbtfs pack" + bytes.fromhex(pack), key=keys.of(epoch).meta).digest()
        self.native = self._ids + self._meta + (data or bytes(KEY_BYTES))
        """Keys as compiled code takes them: ids, key of metadata, key of chunks."""
        self.chunk_key = None if data is None else self._ids + data
        """Key of chunks as PackFile takes it; None if it is unknown."""

    def __repr__(self) -> str:
        return f"PackCipher({self._pack}, …)"

    def seal_index(self, index: bytes, offset: int) -> bytes:
        """Return the entries of the trailer at *offset*, encrypted."""
        nonce = _NONCE.pack(offset, _TRAILER_PIECE)
        return AESGCM(self._meta).encrypt(nonce, index, self._bound(offset))

    def identity(self, trailer: bytes) -> bytes:
        """Return what a signature covers; *trailer* is encrypted and ends with its tag."""
        return pack_identity(self._ids, self.epoch, self.wrapped, trailer)

    def open_index(self, data: bytes, offset: int) -> bytes:
        """Return the entries of a trailer; ValueError if its tag does not match."""
        if len(data) < TAG_BYTES:
            raise ValueError("truncated pack trailer")
        nonce = _NONCE.pack(offset, _TRAILER_PIECE)
        try:
            return AESGCM(self._meta).decrypt(nonce, data, self._bound(offset))
        except InvalidTag as exc:
            raise ValueError("the tag of the pack trailer does not match") from exc

    def _bound(self, offset: int) -> bytes:
        repository, pack = self._ids[:16], self._ids[16:]
        return _BOUND.pack(
            _PREFIX, repository, pack, offset, 0, 0, 0, 0, 0, bytes(32), _TRAILER_PIECE, 0
        )


def signing_seed(master: bytes, repository: str) -> bytes:
    """Return the private key with which programs that can read content sign packs."""
    return derive(master, repository, "sign")


def keys_of_masters(repository: str, masters: Mapping[int, bytes], digest: bytes) -> Keys:
    """Return all keys that follow from the master keys of all epochs, and from the digest key."""
    epochs, newest = {}, max(masters)
    for epoch, master in masters.items():
        private = X25519PrivateKey.from_private_bytes(derive(master, repository, "data"))
        meta = derive(master, repository, "meta")
        signer = Signer(signing_seed(master, repository)).public
        epochs[epoch] = EpochKeys(meta, private.public_key(), private, signer)
    own = Signer(signing_seed(masters[newest], repository))
    return Keys(repository, newest, digest, epochs, Role.ADMIN, own)


def commitment(master: bytes, repository: str, epoch: int) -> bytes:
    """Return 32 bytes that only this master key has, and that do not reveal it."""
    message = b"cbtfs commitment" + bytes.fromhex(repository) + struct.pack("<I", epoch)
    return blake3(message, key=derive(master, repository, "commitment")).digest()
