"""Write one disk of one point of an encrypted repository as a raw image.

Arguments: REPO KEYFILE POINT DISK IMAGE. Written from docs/format.md alone, without cbtfs.
"""

import base64
import hashlib
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CHUNK, NODE, MAGIC, NOTHING = 1, 2, b"CBTFSPAK\1\0", (0, 0, 0, 0, 0, 0, bytes(32))
UNPACKER = zstandard.ZstdDecompressor(max_window_size=8 << 20)
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
Frame = tuple[int, int, int, int, int, int, int, bytes]  # an entry of a trailer


class Damaged(Exception):
    """Raised when bytes contradict the format."""


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise Damaged(what)


def unseal(data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data[:-78] + b"}").hexdigest().encode()
    demand(data[-78:] == b',"sha256":"' + digest + b'"}\n', "no seal that fits")
    return dict(json.loads(data[:-78] + b"}"))


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(key)


def keyed(key: bytes, data: bytes) -> bytes:
    return blake3(data, key=key).digest()


def aead(key: bytes, nonce: bytes, sealed: bytes, bound: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(nonce, sealed, bound)
    except InvalidTag:
        raise Damaged("a tag differs") from None


def secret_of(file: Path) -> bytes:
    words = re.sub(r"(?m)^#.*$", "", file.read_text()).split()
    digits = "".join(words[1:]).replace("-", "")
    secret = bytes.fromhex(digits[:64])
    check = hashlib.sha256(b"cbtfs key file" + secret).hexdigest()[:8]
    demand(words[0] == "cbtfs-key-1" and digits[64:] == check, "key file")
    return secret


class Keys:
    def __init__(self, repo: Path, secret: bytes) -> None:
        self.repository = bytes.fromhex(unseal((repo / "repository.json").read_bytes())["id"])
        self.masters: dict[int, bytes] = {}
        for file in (repo / "keys").glob("[0-9a-f]" * 32):
            slot = unseal(file.read_bytes())
            if slot["kind"] == "file" and not self.masters:
                self._open(slot, secret)
        epoch, key = next(iter(self.masters.items()))
        for number in range(epoch, 0, -1):
            self.masters[number] = key
            file = repo / "keys" / f"epoch-{number}"
            wrapped = base64.b64decode(unseal(file.read_bytes())["wrapped"])
            bound = b"cbtfs epoch" + self.repository + struct.pack("<I", number)
            key = hkdf(key, self.repository, b"cbtfs previous")
            key = aead(key, wrapped[:12], wrapped[12:], bound)
        self.digest = key

    def _open(self, slot: dict[str, Any], secret: bytes) -> None:
        name, epoch = bytes.fromhex(slot["id"]), struct.pack("<I", slot["epoch"])
        wrapped = base64.b64decode(slot["wrapped"])
        bound = b"cbtfs slot" + self.repository + name + epoch + b"file"
        with suppress(Damaged):
            master = aead(hkdf(secret, name, b"cbtfs slot file"), wrapped[:12], wrapped[12:], bound)
            proof = hkdf(master, self.repository, b"cbtfs commitment")
            commitment = keyed(proof, b"cbtfs commitment" + self.repository + epoch)
            demand(commitment.hex() == slot["commitment"], "commitment")
            self.masters = {slot["epoch"]: master}

    def role(self, epoch: int, role: bytes) -> bytes:
        return hkdf(self.masters[epoch], self.repository, b"cbtfs " + role)

    def open_file(self, data: bytes, name: bytes) -> bytes:
        demand(hashlib.sha256(data[:-32]).digest() == data[-32:], "checksum")
        epoch, nonce = struct.unpack("<8x4xI12s", data[:28])
        demand(data[:12] == b"CBTFSENC\1\0\0\0", "magic")
        key = keyed(self.role(epoch, b"meta"), b"cbtfs file" + name)
        plain = aead(key, nonce, data[32:-32], data[:32] + self.repository + name)
        return plain[4 : 4 + int.from_bytes(plain[:4], "little")]


class Pack:
    def __init__(self, file: Path, keys: Keys) -> None:
        self.data, self.digest_key = file.read_bytes(), keys.digest
        magic, epoch, name, wrapped = struct.unpack("<12sI16s80s", self.data[:112])
        demand(magic in (MAGIC + b"\1\0", MAGIC + b"\3\0") and name.hex() == file.name, "header")
        self.flags, self.wrapped, self.epoch = magic[10:], wrapped, epoch
        private = X25519PrivateKey.from_private_bytes(keys.role(epoch, b"data"))
        self.ids = keys.repository + name
        content = SUITE.decrypt(wrapped, private, info=b"cbtfs pack" + self.ids)
        meta = keyed(keys.role(epoch, b"meta"), b"cbtfs pack" + name)
        self.keys = {0: meta, CHUNK: content, NODE: meta}

    def open(self, frame: Frame, piece: int, sealed: bytes) -> bytes:
        """Decrypt a piece. *frame* has zeros for a header or the trailer."""
        offset, _, kind, level, codec, stored, plain, digest = frame
        bound = b"cbtfs\0\1\0" + self.ids + struct.pack("<QBBBx", offset, kind, level, codec)
        bound += struct.pack("<I32sII", plain, digest, piece, stored)
        return aead(self.keys[kind], struct.pack("<QI", offset, piece), sealed, bound)

    def frames(self) -> list[Frame]:
        foot = self.data[-64:]
        count, at, crc, epoch, whole, own = struct.unpack("<12xIQI16xII8xI", foot)
        demand(foot[:12] == b"CBTFSEND\1\0" + self.flags and own == zlib.crc32(foot[:60]), "footer")
        demand(whole == zlib.crc32(self.data[:-64]), "checksum")
        tail, end = self.data[at:-64], count * 56 + 16
        demand(zlib.crc32(tail) == crc and tail[end : end + 80] == self.wrapped, "trailer")
        demand(epoch == self.epoch and len(tail) == end + 80 + 96 * (self.flags[0] == 3), "size")
        if self.flags[0] == 3:
            key = self.ids + struct.pack("<I", epoch) + self.wrapped + tail[:end]
            name = b"cbtfs signed pack" + hashlib.sha256(key).digest()
            Ed25519PublicKey.from_public_bytes(tail[-96:-64]).verify(tail[-64:], name)
        index = self.open((at, *NOTHING), 0xFFFFFFFE, tail[:end])
        return list(struct.iter_unpack("<QIBBBxII32s", index))

    def load(self, frame: Frame) -> bytes:
        """Return the content of the object in a frame, verified."""
        offset, length, kind, level, codec, stored, plain, digest = frame
        head = self.open((offset, *NOTHING), 0xFFFFFFFF, self.data[offset : offset + 112])
        step = 4096 if (kind, codec) == (CHUNK, 0) else 4 << 20
        pieces = -(-stored // step)
        sizes = struct.pack("<2xIII", stored, plain, 16 * pieces)
        kinds = struct.pack("<4sI2xBBBx", b"CBTF", length, kind, level, codec)
        expected = kinds + sizes + bytes(24) + digest + bytes(8)
        demand(head == expected + struct.pack("<I", zlib.crc32(expected)), "frame header")
        tags, at, content = offset + 112, offset + 112 + 16 * pieces, b""
        for piece in range(pieces):
            part = self.data[at + piece * step : at + min(piece * step + step, stored)]
            content += self.open(frame, piece, part + self.data[tags + 16 * piece :][:16])
        demand(offset % 64 == 0 and length == (112 + 16 * pieces + stored + 63) // 64 * 64, "size")
        if codec == 1:
            demand(zstandard.get_frame_parameters(content).content_size == plain, "size")
            content = UNPACKER.decompress(content, allow_extra_data=False)
        name = keyed(self.digest_key, b"cbtfs\0" + bytes((kind, level)) + content)
        demand(len(content) == plain and name == digest, "digest")
        return content


def write_image(repo: Path, keys: Keys, point: str, label: str, image: Path) -> None:
    sealed = (repo / "points" / point).read_bytes()
    disks = unseal(keys.open_file(sealed, f"points/{point}".encode()))["disks"]
    disk = next(disk for disk in disks if disk["label"] == label)
    size, block = disk["size"], disk["block_size"]
    packs = [Pack(file, keys) for file in (repo / "packs").glob("??/" + "[0-9a-f]" * 32)]
    found = {frame[-1]: (pack, frame) for pack in packs for frame in pack.frames()}

    def blocks(digest: bytes, level: int, index: int) -> Iterator[tuple[int, bytes]]:
        if digest == bytes(32):
            return
        pack, frame = found[digest]
        demand((frame[2], frame[3]) == ((NODE, level) if level else (CHUNK, 0)), "kind")
        content = pack.load(frame)
        if level == 0:
            yield index, content
        for slot in range(64 if level else 0):
            yield from blocks(content[slot * 32 : slot * 32 + 32], level - 1, index * 64 + slot)

    height = next(h for h in range(1, 12) if 64**h * block >= size)
    with image.open("wb") as file:
        file.truncate(size)
        for index, content in blocks(bytes.fromhex(disk["root"]), height, 0):
            file.seek(index * block)
            file.write(content[: size - index * block])


if __name__ == "__main__":
    repository, opened = Path(sys.argv[1]), Keys(Path(sys.argv[1]), secret_of(Path(sys.argv[2])))
    write_image(repository, opened, sys.argv[3], sys.argv[4], Path(sys.argv[5]))
