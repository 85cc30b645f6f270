"""Signed packs: the code and the library cryptography agree, and a known pack stays readable."""

import hashlib
import struct
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from cbtfs.core.frame import Codec, Frame, Kind, encode_sealed_head
from cbtfs.core.ids import PackId
from cbtfs.core.rolefile import Role, RoleFile, decode_role_file, encode_role_file
from cbtfs.errors import KeyUnavailable
from cbtfs.native import crc_table
from cbtfs.store.backend.base import Backend
from cbtfs.store.backend.layout import open_packs
from cbtfs.store.codec import Encoded
from cbtfs.store.digest import Digester
from cbtfs.store.encryption import keys as key_module
from cbtfs.store.encryption.keys import Keys, PackCipher, keys_of_masters
from cbtfs.store.encryption.roles import keys_of_role, make_role
from cbtfs.store.pack import Pack, PackWriter

REPOSITORY: Final = "0123456789abcdef" * 2
NAME: Final = PackId("fedcba9876543210" * 2)
MASTER, DIGEST, SEED, CONTENT = (bytes([n]) * 32 for n in (1, 2, 3, 4))
KNOWN: Final = Path(__file__).parent / "known_signed_pack.hex"
CHUNK: Final = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(157))[:5000]
TEXT: Final = b"text" * 1250
PACKED_TEXT: Final = bytes.fromhex("28b52ffd6088125d0000207465787401008173ef88")
"""TEXT as a zstd frame: other versions of zstd may find another one."""
IDS: Final = bytes.fromhex(REPOSITORY) + bytes.fromhex(NAME)


@pytest.fixture
def packs(tmp_path: Path) -> Iterator[Backend]:
    (tmp_path / "packs").mkdir()
    with closing(open_packs(tmp_path)) as backend:
        yield backend


def admin() -> Keys:
    return keys_of_masters(REPOSITORY, {1: MASTER}, DIGEST).signing(True)


def capture_file() -> RoleFile:
    return replace(make_role(REPOSITORY, Role.CAPTURE, {1: MASTER}, DIGEST), seed=SEED)


def capture() -> Keys:
    return keys_of_role(capture_file()).signing(True)


def objects() -> list[Encoded]:
    """Return a raw chunk, a compressed one, and a node over them."""
    digester, raw = Digester(DIGEST), Codec.STORED
    first, second = digester.chunk(CHUNK), digester.chunk(TEXT)
    node = (first + second).ljust(2048, b"\0")
    name = digester.object(Kind.NODE, 1, node)
    return [
        Encoded(Kind.CHUNK, 0, raw, len(CHUNK), first, crc_table(CHUNK), CHUNK),
        Encoded(Kind.CHUNK, 0, Codec.ZSTD, len(TEXT), second, b"", PACKED_TEXT),
        Encoded(Kind.NODE, 1, raw, len(node), name, b"", node),
    ]


def contents() -> list[bytes]:
    return [CHUNK, TEXT, bytes(objects()[2].payload)]


def written(backend: Backend, keys: Keys) -> bytes:
    """Return the pack with the objects as the code writes it."""
    writer = PackWriter(NAME, backend.upload(NAME), keys)
    for encoded in objects():
        writer.append(encoded)
    writer.close()
    return backend.path(NAME).read_bytes()


def by_library(wrapped: bytes, frames: list[tuple[Frame, bytes]]) -> bytes:
    """Return a signed pack of docs/format.md, made by libraries alone."""
    keys = admin()
    meta = blake3(b"cbtfs pack" + IDS[16:], key=keys.of(1).meta).digest()

    def sealed(key: bytes, at: int, piece: int, data: bytes, frame: Frame | None) -> bytes:
        kind, level, codec, plain, stored, digest = 0, 0, 0, 0, 0, bytes(32)
        if frame is not None:
            kind, level, codec, plain = frame.kind, frame.level, frame.codec, frame.plain
            stored, digest = frame.stored, frame.digest
        numbers = (at, kind, level, codec, plain, digest, piece, stored)
        bound = b"cbtfs\0\1\0" + IDS + struct.pack("<QBBBxI32sII", *numbers)
        return AESGCM(key).encrypt(struct.pack("<QI", at, piece), data, bound)

    pack = b"CBTFSPAK" + struct.pack("<HHI", 1, 3, 1) + IDS[16:] + wrapped + bytes(16)
    index = b""
    for frame, payload in frames:
        assert frame.offset == len(pack)
        pack += sealed(meta, frame.offset, 0xFFFFFFFF, encode_sealed_head(frame), None)
        step = 4096 if frame.table_bytes > 16 else 1 << 22
        key = CONTENT if frame.kind is Kind.CHUNK else meta
        pieces = [
            sealed(key, frame.offset, number, payload[at : at + step], frame)
            for number, at in enumerate(range(0, len(payload), step))
        ]
        pack += b"".join(piece[-16:] for piece in pieces)
        pack += b"".join(piece[:-16] for piece in pieces)
        pack += bytes(-len(pack) % 64)
        numbers = (frame.offset, len(pack) - frame.offset, frame.kind, frame.level, frame.codec)
        index += struct.pack("<QIBBBxII32s", *numbers, frame.stored, frame.plain, frame.digest)
    end = len(pack)
    trailer = sealed(meta, end, 0xFFFFFFFE, index, None)
    identity = hashlib.sha256(IDS + struct.pack("<I", 1) + wrapped + trailer).digest()
    signer = Ed25519PrivateKey.from_private_bytes(SEED)
    trailer += wrapped + signer.public_key().public_bytes_raw()
    trailer += signer.sign(b"cbtfs signed pack" + identity)
    foot = b"CBTFSEND" + struct.pack("<HHIQI", 1, 3, len(frames), end, zlib.crc32(trailer))
    foot += IDS[16:] + struct.pack("<II8x", 1, zlib.crc32(pack + trailer))
    return pack + trailer + foot + struct.pack("<I", zlib.crc32(foot))


def opened(backend: Backend, keys: Keys) -> Pack:
    return Pack(backend.open(NAME), keys, Digester(DIGEST))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return the known pack; new packs get its key of content."""
    data = bytes.fromhex(KNOWN.read_text())

    def new_pack(keys: Keys, pack: PackId) -> PackCipher:
        return PackCipher(keys, pack, keys.epoch, data[32:112], CONTENT)

    monkeypatch.setattr(key_module.Keys, "new_pack", new_pack)
    return data


def test_a_known_pack_is_made_again(packs: Backend, known: bytes) -> None:
    """The file fixes the format: a change of it makes existing repositories unreadable."""
    assert written(packs, capture()) == known


def test_a_known_pack_opens(packs: Backend, known: bytes) -> None:
    written(packs, capture())
    packs.path(NAME).write_bytes(known)
    reader, writer = opened(packs, admin()), opened(packs, capture())
    frames = reader.trailer()

    assert writer.trailer() == frames
    assert reader.identity()[1] == capture().signer.public
    assert [reader.load(frame) for frame in frames] == contents()
    assert writer.load(frames[2]) == contents()[2]
    for frame in frames[:2]:
        with pytest.raises(KeyUnavailable):
            writer.load(frame)


def test_libraries_make_the_same_pack(packs: Backend, known: bytes) -> None:
    written(packs, capture())
    pack = opened(packs, admin())
    frames = [(frame, bytes(pack.load_encoded(frame).payload)) for frame in pack.trailer()]

    assert by_library(known[32:112], frames) == known


def test_a_pack_of_libraries_opens(packs: Backend) -> None:
    written(packs, capture())
    pack = opened(packs, admin())
    frames = [(frame, bytes(pack.load_encoded(frame).payload)) for frame in pack.trailer()]
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    wrapped = suite.encrypt(CONTENT, admin().of(1).public, info=b"cbtfs pack" + IDS)
    packs.path(NAME).write_bytes(by_library(wrapped, frames))

    pack = opened(packs, admin())
    assert [pack.load(frame) for frame in pack.trailer()] == contents()
    assert pack.identity()[1] == capture().signer.public


def test_a_role_file_round_trips() -> None:
    file = capture_file()

    assert decode_role_file(encode_role_file(file, "a comment\n\nof lines").encode()) == file
