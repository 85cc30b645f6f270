"""Objects by which the writers of one repository agree (docs/format.md, "Shared writers").

Each is a sealed file that is created once. Objects whose creation decides something contain a run
or a random token, so an equal object is the creator's own, also after a lost reply.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NewType

from cbtfs.core.fields import id_of, ids, integer, text
from cbtfs.core.ids import PackId, PointId
from cbtfs.core.sealed import seal, unseal

RunId = NewType("RunId", str)
"""32 lower-case hex digits: one commit, by one process. A capture's point has the same id."""
PruneId = NewType("PruneId", str)
"""32 lower-case hex digits, random: one prune."""

_DIGITS: Final = 12
_NUMBERED: Final = re.compile(r"([0-9a-f]{32})\.([0-9]{12})\Z")
_OF_PRUNE: Final = re.compile(r"([0-9a-f]{32})\.(candidates|verdict)\Z")
CANDIDATES: Final = "candidates"
VERDICT: Final = "verdict"
_INTENT: Final = "cbtfs intent"
_TOMBSTONE: Final = "cbtfs tombstone"
_ENTRY: Final = "cbtfs log entry"
_CANDIDATES: Final = "cbtfs candidates"
_VERDICT: Final = "cbtfs verdict"
_HOLD: Final = "cbtfs hold"
_BEAT: Final = "cbtfs beat"
TAG_DIGITS: Final = 16
"""Digits at the end of the name of a pack that name its writer."""


def numbered(name: str, number: int) -> str:
    """Return the name of entry *number* of *name*: names and numbers have the same order."""
    return f"{name}.{number:0{_DIGITS}d}"


def split_numbered(name: str) -> tuple[str, int] | None:
    """Return name and number of an entry; None if *name* is not that of an entry."""
    match = _NUMBERED.match(name)
    return None if match is None else (match[1], int(match[2]))


def of_prune(prune: PruneId, part: str) -> str:
    """Return the name of CANDIDATES or VERDICT of a prune."""
    return f"{prune}.{part}"


def split_prune(name: str) -> tuple[PruneId, str] | None:
    """Return the prune and CANDIDATES or VERDICT; None if *name* is another one."""
    match = _OF_PRUNE.match(name)
    return None if match is None else (PruneId(match[1]), match[2])


def tag_of(writer: str) -> str:
    """Return the end of the names of the packs of a writer."""
    return writer[:TAG_DIGITS]


class Entry(StrEnum):
    """Meaning of an entry of the log of a point."""

    FORGOTTEN = "forgotten"
    RESTORED = "restored"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Origin:
    """The process that created an object, for messages."""

    host: str
    pid: int
    time: str
    """RFC 3339; only for messages."""
    program: str


@dataclass(frozen=True, slots=True)
class Intent:
    """A run that may commit."""

    run: RunId
    writer: str
    """32 hex digits, the same for all runs of one session; its packs have its tag."""
    origin: Origin


@dataclass(frozen=True, slots=True)
class Tombstone:
    """Takes the name of the manifest of a run, which can then not commit."""

    run: RunId
    by: str


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of the log of a point."""

    run: RunId
    entry: Entry
    token: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Candidates:
    """Packs that a prune may delete: they are condemned."""

    prune: PruneId
    packs: frozenset[PackId]
    origin: Origin


@dataclass(frozen=True, slots=True)
class Verdict:
    """Packs and runs that are deleted permanently."""

    prune: PruneId
    packs: frozenset[PackId]
    runs: frozenset[RunId]
    token: str


@dataclass(frozen=True, slots=True)
class Hold:
    """A reader that needs a point."""

    id: str
    run: RunId
    point: PointId
    origin: Origin


def _origin(origin: Origin) -> dict[str, Any]:
    return {
        "host": origin.host,
        "pid": origin.pid,
        "time": origin.time,
        "program": origin.program,
    }


def _origin_of(document: Mapping[str, Any]) -> Origin:
    return Origin(
        text(document, "host"),
        integer(document, "pid"),
        text(document, "time"),
        text(document, "program"),
    )


def _opened(data: bytes, form: str) -> dict[str, Any]:
    document = unseal(data)
    if document.get("format") != form:
        raise ValueError(f"not a {form.removeprefix('cbtfs ')}")
    return document


def encode_intent(intent: Intent) -> bytes:
    return seal(
        {
            "format": _INTENT,
            "run": intent.run,
            "writer": intent.writer,
            **_origin(intent.origin),
        }
    )


def decode_intent(data: bytes) -> Intent:
    """Return the intent in a sealed file; ValueError if it is another object."""
    document = _opened(data, _INTENT)
    return Intent(RunId(id_of(document, "run")), id_of(document, "writer"), _origin_of(document))


def encode_tombstone(tombstone: Tombstone) -> bytes:
    return seal({"format": _TOMBSTONE, "run": tombstone.run, "by": tombstone.by})


def tombstone_in(document: Mapping[str, Any]) -> Tombstone | None:
    """Return the tombstone in a parsed file of points/; None if it is a manifest."""
    if document.get("format") != _TOMBSTONE:
        return None
    return Tombstone(RunId(id_of(document, "run")), id_of(document, "by"))


def encode_entry(entry: LogEntry) -> bytes:
    return seal(
        {
            "format": _ENTRY,
            "run": entry.run,
            "entry": entry.entry.value,
            "token": entry.token,
            **_origin(entry.origin),
        }
    )


def decode_entry(data: bytes) -> LogEntry:
    """Return the log entry in a sealed file; ValueError if it is another object."""
    document = _opened(data, _ENTRY)
    return LogEntry(
        RunId(id_of(document, "run")),
        Entry(text(document, "entry")),
        id_of(document, "token"),
        _origin_of(document),
    )


def encode_candidates(candidates: Candidates) -> bytes:
    return seal(
        {
            "format": _CANDIDATES,
            "prune": candidates.prune,
            "packs": sorted(candidates.packs),
            **_origin(candidates.origin),
        }
    )


def decode_candidates(data: bytes) -> Candidates:
    """Return the candidates in a sealed file; ValueError if it is another object."""
    document = _opened(data, _CANDIDATES)
    packs = frozenset(map(PackId, ids(document, "packs")))
    return Candidates(PruneId(id_of(document, "prune")), packs, _origin_of(document))


def encode_verdict(verdict: Verdict) -> bytes:
    return seal(
        {
            "format": _VERDICT,
            "prune": verdict.prune,
            "packs": sorted(verdict.packs),
            "runs": sorted(verdict.runs),
            "token": verdict.token,
        }
    )


def decode_verdict(data: bytes) -> Verdict:
    """Return the verdict in a sealed file; ValueError if it is another object."""
    document = _opened(data, _VERDICT)
    return Verdict(
        PruneId(id_of(document, "prune")),
        frozenset(map(PackId, ids(document, "packs"))),
        frozenset(map(RunId, ids(document, "runs"))),
        id_of(document, "token"),
    )


def encode_hold(hold: Hold) -> bytes:
    return seal(
        {
            "format": _HOLD,
            "id": hold.id,
            "run": hold.run,
            "point": hold.point,
            **_origin(hold.origin),
        }
    )


def decode_hold(data: bytes) -> Hold:
    """Return the hold in a sealed file; ValueError if it is another object."""
    document = _opened(data, _HOLD)
    return Hold(
        id_of(document, "id"),
        RunId(id_of(document, "run")),
        PointId(id_of(document, "point")),
        _origin_of(document),
    )


def encode_beat(name: str, number: int) -> bytes:
    return seal({"format": _BEAT, "of": name, "number": number})


@dataclass(frozen=True, slots=True)
class Log:
    """State of the log of a point: the entry with the highest number, or a final one."""

    number: int = 0
    entry: Entry = Entry.RESTORED

    def then(self, number: int, entry: Entry) -> "Log":
        """Return the state with another entry. A final entry takes precedence."""
        if Entry.FINAL in (self.entry, entry):
            return Log(max(number, self.number), Entry.FINAL)
        return Log(number, entry) if number > self.number else self


@dataclass(frozen=True, slots=True)
class Prunes:
    """All prunes of a repository."""

    unfinished: Mapping[PruneId, frozenset[PackId]]
    """Candidates of each prune without a verdict."""
    finished: frozenset[PruneId]
    """Prunes with a verdict whose candidates still exist."""
    packs: frozenset[PackId]
    """Packs that a verdict names."""
    runs: frozenset[RunId]
    """Runs that a verdict names."""

    @property
    def condemned(self) -> frozenset[PackId]:
        """Packs that a prune may delete later."""
        return frozenset[PackId]().union(*self.unfinished.values())


def prunes_of(candidates: Collection[Candidates], verdicts: Collection[Verdict]) -> Prunes:
    """Return the prunes that have these objects."""
    done = frozenset(verdict.prune for verdict in verdicts)
    return Prunes(
        {known.prune: known.packs for known in candidates if known.prune not in done},
        frozenset(known.prune for known in candidates if known.prune in done),
        frozenset[PackId]().union(*(verdict.packs for verdict in verdicts)),
        frozenset[RunId]().union(*(verdict.runs for verdict in verdicts)),
    )
