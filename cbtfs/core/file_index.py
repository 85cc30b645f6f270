"""The index of the files of a point: its header and the places of its parts (docs/format.md).

An index is derived: it can be removed at any time and built from the point. Its header is sealed
and has a digest of each part, so that a reader trusts no damaged byte.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from cbtfs.core.fields import id_of, integer, moment, text
from cbtfs.core.ids import PointId
from cbtfs.core.sealed import MAX_BYTES, seal, unseal

INDEX_FORMAT: Final = 1
MAGIC: Final = b"cbtfsidx"
START: Final = struct.Struct("<8sI")
"""Magic number and length of the header, which follows."""
FACTS_BYTES: Final = 26
"""Bytes of the facts of one file: mode, inode, size, time."""
MAX_PART: Final = 64 << 20
"""Largest part when it is decompressed."""


@dataclass(frozen=True, slots=True)
class Part:
    """A compressed part of an index."""

    length: int
    plain: int
    """Length when it is decompressed."""
    digest: str
    """SHA-256 of the compressed bytes."""

    @classmethod
    def of(cls, data: bytes, plain: int) -> "Part":
        """Return the part with these compressed bytes."""
        return cls(len(data), plain, hashlib.sha256(data).hexdigest())

    def is_of(self, data: bytes) -> bool:
        """Return True if *data* are the bytes of this part."""
        return len(data) == self.length and hashlib.sha256(data).hexdigest() == self.digest


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive files of an index: a part with their names, and one with their facts."""

    files: int
    names: Part
    facts: Part


@dataclass(frozen=True, slots=True)
class IndexedVolume:
    """A volume whose files are in an index."""

    place: str
    """Path where the guest mounts it."""
    volume: str
    kind: str
    engine: str


@dataclass(frozen=True, slots=True)
class IndexHeader:
    """The facts about an index."""

    point: PointId
    created: str
    """RFC 3339, UTC."""
    program: str
    volumes: tuple[IndexedVolume, ...]
    left_out: tuple[tuple[str, str], ...]
    """Paths of directories and volumes that could not be read, and the reasons."""
    segments: tuple[Segment, ...]

    @property
    def files(self) -> int:
        return sum(segment.files for segment in self.segments)

    @property
    def engines(self) -> Sequence[str]:
        """Names of the engines that read the files, by name."""
        return sorted({volume.engine for volume in self.volumes})


@dataclass(frozen=True, slots=True)
class Layout:
    """A header, and where the parts of its segments are in the index."""

    header: IndexHeader
    start: int
    """Offset of the first part."""

    @property
    def offsets(self) -> Sequence[int]:
        """Offset of the names of each segment, and that of the end; the facts follow the names."""
        lengths = (s.names.length + s.facts.length for s in self.header.segments)
        return list(accumulate(lengths, initial=self.start))


def encode_index(header: IndexHeader, parts: Sequence[bytes]) -> bytes:
    """Return an index; *parts* are the names and the facts of each segment, in turns."""
    document = seal(
        {
            "format": INDEX_FORMAT,
            "point": header.point,
            "created": header.created,
            "program": header.program,
            "volumes": [[v.place, v.volume, v.kind, v.engine] for v in header.volumes],
            "left_out": [list(item) for item in header.left_out],
            "segments": [
                [s.files, *(f for p in (s.names, s.facts) for f in (p.length, p.plain, p.digest))]
                for s in header.segments
            ],
        }
    )
    return b"".join([START.pack(MAGIC, len(document)), document, *parts])


def header_bytes(data: bytes) -> int:
    """Return the length of the start of an index and its header; ValueError if it has none."""
    if len(data) < START.size:
        raise ValueError("it is too short")
    magic, length = START.unpack_from(data)
    if magic != MAGIC or length > MAX_BYTES:
        raise ValueError("it is no index of files")
    return START.size + int(length)


def decode_header(data: bytes) -> Layout:
    """Return the header at the start of an index; ValueError with the reason if it is invalid."""
    end = header_bytes(data)
    document = unseal(data[START.size : end])
    version = integer(document, "format")
    if version != INDEX_FORMAT:
        raise ValueError(f"index format {version}")
    try:
        volumes = tuple(IndexedVolume(*map(_text, row)) for row in document["volumes"])
        left_out = tuple((_text(path), _text(reason)) for path, reason in document["left_out"])
        segments = tuple(map(_segment, document["segments"]))
    except (KeyError, TypeError) as exc:
        raise ValueError("its header is invalid") from exc
    header = IndexHeader(
        PointId(id_of(document, "point")),
        moment(document, "created"),
        text(document, "program"),
        volumes,
        left_out,
        segments,
    )
    return Layout(header, end)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _segment(row: Any) -> Segment:
    files, *rest = row
    names, facts = _part(rest[:3]), _part(rest[3:])
    if type(files) is not int or facts.plain != files * FACTS_BYTES:
        raise ValueError("its header is invalid")
    return Segment(files, names, facts)


def _part(row: Any) -> Part:
    length, plain, digest = row
    if not all(type(n) is int and 0 <= n <= MAX_PART for n in (length, plain)):
        raise ValueError("its header is invalid")
    return Part(length, plain, _text(digest))
