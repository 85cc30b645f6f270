"""Write one disk of one point as a raw image: REPO POINT DISK IMAGE.

Written from docs/format.md alone: it uses neither the catalog nor modules of cbtfs.
"""

import hashlib
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3

CHUNK, NODE = 1, 2
UNPACKER = zstandard.ZstdDecompressor(max_window_size=8 << 20)
Frame = tuple[int, int, int, int, int, int, int, bytes]
"""Entry of a trailer: offset, length, kind, level, codec, stored and plain length, digest."""


class Damaged(Exception):
    """Raised when bytes contradict the format."""


def demand(holds: bool, what: str) -> None:
    if not holds:
        raise Damaged(what)


def load_file(path: Path, offset: int = 0, length: int = -1) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        file.seek(offset)
        return file.read(length)


def unseal(path: Path) -> dict[str, Any]:
    data = load_file(path)
    body = data[:-78] + b"}"
    digest = hashlib.sha256(body).hexdigest().encode()
    demand(data[-78:] == b',"sha256":"' + digest + b'"}\n', f"no seal that fits: {path}")
    return dict(json.loads(body))


def frame_at(data: bytes, at: int, offset: int) -> Frame:
    """Return the frame whose header is at *at* in *data*, and at *offset* in its pack."""
    head = data[at : at + 92]
    demand(len(head) == 92 and head[:4] == b"CBTF", "no frame here")
    length, flags, kind, level, codec, slot, stored, plain, table, digest = struct.unpack(
        "<4xIHBBBB2xIII24x32s8x", head
    )
    crc = zlib.crc32(data[at + 96 : at + 96 + table], zlib.crc32(head))
    demand(data[at + 92 : at + 96] == struct.pack("<I", crc), "frame header")
    demand((flags, slot) == (0, 0) and codec in (0, 1) and plain <= 4 << 20, "unknown frame")
    demand(kind in (CHUNK, NODE) and (kind == CHUNK) == (level == 0), "unknown kind")
    demand(length == 96 + table + stored, "frame contradicts itself")
    demand(table == (-(-plain // 4096) * 4 if (kind, codec) == (CHUNK, 0) else 0), "table")
    return offset, length, kind, level, codec, stored, plain, digest


def listed(pack: Path, data: bytes) -> Iterator[Frame]:
    """Yield the frames that the trailer lists; Damaged if header, trailer or footer fails."""
    demand(data[:16] == b"CBTFSPAK\1" + bytes(7) and data[16:32].hex() == pack.name, "header")
    foot = data[-64:]
    demand(len(foot) == 64 and foot[:12] == b"CBTFSEND\1\0\0\0", "footer")
    count, at, crc, name, own = struct.unpack("<12xIQI16s16xI", foot)
    trailer = data[at:-64]
    demand(own == zlib.crc32(foot[:60]) and name.hex() == pack.name, "footer")
    demand(len(trailer) == count * 56 and zlib.crc32(trailer) == crc, "trailer")
    yield from struct.iter_unpack("<QIBBBxII32s", trailer)


def scanned(data: bytes) -> Iterator[Frame]:
    at = 31
    while (at := data.find(b"CBTF", at + 1)) >= 0:
        with suppress(Damaged):
            frame = frame_at(data, at, at)
            at += frame[1] - 1
            if at < len(data):
                yield frame


def find_frames(packs: Path) -> dict[bytes, list[tuple[Path, Frame]]]:
    """Return every frame of every closed pack, by digest."""
    by_digest: dict[bytes, list[tuple[Path, Frame]]] = {}
    for pack in packs.glob("[0-9a-f][0-9a-f]/" + "[0-9a-f]" * 32):
        data = load_file(pack)
        frames = list(scanned(data))
        with suppress(Damaged):
            frames = list(listed(pack, data))
        for frame in frames:
            by_digest.setdefault(frame[-1], []).append((pack, frame))
    return by_digest


def load(pack: Path, frame: Frame) -> bytes:
    """Return the content of the object in a frame, verified."""
    offset, length, kind, level, codec, stored, plain, digest = frame
    data = load_file(pack, offset, length)
    demand(frame_at(data, 0, offset) == frame and len(data) == length, "frame")
    content = data[length - stored :]
    if codec == 1:
        demand(zstandard.get_frame_parameters(content).content_size == plain, "size")
        content = UNPACKER.decompress(content, allow_extra_data=False)
    name = blake3(b"cbtfs\0" + bytes((kind, level)) + content).digest()
    demand(len(content) == plain and name == digest, "digest")
    return content


def write_image(repo: Path, point: str, label: str, image: Path) -> None:
    settings = unseal(repo / "repository.json")
    demand((settings["format"], settings["version"]) == ("cbtfs repository", 1), "version")
    demand(settings["digest"] == {"algorithm": "blake3-256", "key_slot": None}, "digest")
    manifest = unseal(repo / "points" / point)
    demand((manifest["format"], manifest["point"]) == (1, point), "manifest")
    demand(set(settings["features"]["required"]) <= {"pins"}, "unknown feature")
    disk = next(disk for disk in manifest["disks"] if disk["label"] == label)
    frames, size, block = find_frames(repo / "packs"), disk["size"], disk["block_size"]

    def find(digest: bytes, kind: int, level: int, length: int) -> bytes:
        for pack, frame in frames.get(digest, []):
            with suppress(Damaged, zstandard.ZstdError):
                demand((*frame[2:4], frame[6]) == (kind, level, length), "another kind of object")
                return load(pack, frame)
        raise Damaged(f"object {digest.hex()} is missing or damaged")

    def blocks(digest: bytes, level: int, index: int) -> Iterator[tuple[int, bytes]]:
        if digest != bytes(32) and level == 0:
            yield index, find(digest, CHUNK, 0, block)
        elif digest != bytes(32):
            node = find(digest, NODE, level, 2048)
            for slot in range(64):
                yield from blocks(node[slot * 32 : slot * 32 + 32], level - 1, index * 64 + slot)

    height = next(h for h in range(1, 12) if 64**h * block >= size)
    with image.open("wb") as file:
        file.truncate(size)
        for index, content in blocks(bytes.fromhex(disk["root"]), height, 0):
            demand(index * block < size, "a block beyond the end")
            file.seek(index * block)
            file.write(content[: size - index * block])


if __name__ == "__main__":
    write_image(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
