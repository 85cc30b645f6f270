"""Verification of packs without the catalog: header, frames, trailer, footer."""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from cbtfs.check.report import Problem
from cbtfs.core.frame import Frame, Kind
from cbtfs.core.ids import PackId
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.pack import Pack
from cbtfs.store.packs import PackFolder
from cbtfs.store.quarantine import CorruptFrame, corrupt_frame

_THREADS: Final = 4
"""Reading, hashing and decoding release the GIL; disks cannot feed more threads."""


@dataclass(slots=True)
class PackFindings:
    """Problems of one pack."""

    id: PackId
    size: int = 0
    problems: list[Problem] = field(default_factory=list)
    by_offset: dict[int, Problem] = field(default_factory=dict)
    """Problems of corrupt frames by offset; also listed in `problems`."""
    corrupt: list[CorruptFrame] = field(default_factory=list)
    """The corrupt frames."""
    identity: bytes = b""
    """Identity of an encrypted pack all of whose frames were read and are intact."""
    chunks_read: int = 0
    bytes_read: int = 0


def verify_packs(
    packs: PackFolder, ids: set[PackId], read: Collection[PackId]
) -> Iterator[PackFindings]:
    """Yield the findings of each pack: loads all nodes, and the chunks of packs in *read*."""
    with ThreadPoolExecutor(_THREADS, "check") as threads:
        yield from threads.map(lambda pack: _verify(packs, pack, pack in read), sorted(ids))


def _verify(packs: PackFolder, id: PackId, read_data: bool) -> PackFindings:  # noqa: A002
    findings = PackFindings(id)
    try:
        pack = packs.open(id)
        frames, trailer_error = packs.frames(id)
    except (ChunkMissing, DataCorrupt) as exc:
        findings.problems.append(Problem("pack", str(exc), type(exc)))
        return findings
    findings.size = pack.size
    if trailer_error is not None:
        findings.problems.append(Problem("trailer", trailer_error))
    elif (gap := _gap(pack, frames)) is not None:
        findings.problems.append(Problem("pack", f"pack {id}: no frame is listed at {gap}"))
    for frame in frames:
        if read_data or frame.kind is Kind.NODE:
            _load(pack, frame, findings)
    if read_data and pack.is_sealed and not findings.problems:
        findings.identity, _ = pack.identity()
    return findings


def _gap(pack: Pack, frames: list[Frame]) -> int | None:
    """Return the first offset before the trailer that belongs to no frame or to two, or None."""
    at = pack.first_frame
    for frame in frames:
        if frame.offset != at:
            return at
        at = frame.end
    return None if at == pack.frames_end(len(frames)) else at


def _load(pack: Pack, frame: Frame, findings: PackFindings) -> None:
    try:
        pack.load(frame)
    except (ChunkMissing, DataCorrupt) as exc:
        name = frame.kind.name.lower()
        what = f"{name} {frame.digest.hex()} in pack {findings.id} at {frame.offset}: {exc}"
        problem = Problem("chunk" if frame.kind is Kind.CHUNK else "node", what)
        findings.problems.append(problem)
        findings.by_offset[frame.offset] = problem
        findings.corrupt.append(corrupt_frame(findings.id, frame))
    findings.chunks_read += frame.kind is Kind.CHUNK
    findings.bytes_read += frame.end - frame.offset
