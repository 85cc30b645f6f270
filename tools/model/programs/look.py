"""Listings that several programs need: prunes, logs of points, points, packs."""

from dataclasses import dataclass

from tools.model.actor import Actor
from tools.model.programs.client import list_all
from tools.model.requests import Program
from tools.model.rules import Rule
from tools.model.store import (
    Candidates,
    Entry,
    Kind,
    Manifest,
    Name,
    Pack,
    Prefix,
    Tombstone,
    Value,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Prunes:
    """All prunes of a repository."""

    unfinished: dict[int, frozenset[int]]
    """Candidates of each prune without a verdict."""
    finished: frozenset[int]
    """Prunes with a verdict whose candidates still exist."""
    packs: frozenset[int]
    """Packs that a verdict names."""
    points: frozenset[int]
    """Commits that a verdict names."""

    @property
    def condemned(self) -> frozenset[int]:
        """Packs that a prune may delete later."""
        return frozenset().union(*self.unfinished.values())


def list_prunes() -> Program[Prunes]:
    objects = yield from list_all(Prefix.PRUNES)
    packs: set[int] = set()
    points: set[int] = set()
    candidates: dict[int, frozenset[int]] = {}
    finished: set[int] = set()
    for name, value in objects.items():
        prune = _pair(name)[0]
        if isinstance(value, Verdict):
            packs |= value.packs
            points |= value.points
            finished.add(prune)
        elif isinstance(value, Candidates):
            candidates[prune] = value.packs
    unfinished = {prune: packs for prune, packs in candidates.items() if prune not in finished}
    return Prunes(
        unfinished, frozenset(finished & candidates.keys()), frozenset(packs), frozenset(points)
    )


Logs = dict[int, tuple[int, Kind]]
"""Number and kind of the newest entry of each log."""


def list_logs(actor: Actor) -> Program[Logs]:
    """List the logs. A program that was stopped may have put an entry after a final one."""
    is_final = Rule.FINAL_WINS in actor.rules
    objects = yield from list_all(Prefix.FORGOTTEN)
    logs: Logs = {}
    for name, value in objects.items():
        commit, number = _pair(name)
        assert isinstance(value, Entry)
        known, kind = logs.get(commit, (0, Kind.RESTORED))
        if is_final and Kind.FINAL in (kind, value.kind):
            logs[commit] = max(number, known), Kind.FINAL
        elif known < number:
            logs[commit] = number, value.kind
    return logs


def list_points() -> Program[dict[int, Manifest | Tombstone]]:
    objects = yield from list_all(Prefix.POINTS)
    return {_id(n): v for n, v in objects.items() if isinstance(v, Manifest | Tombstone)}


@dataclass(frozen=True, slots=True)
class Points:
    """Points as a user sees them."""

    living: dict[int, int]
    """Root of each point that is neither forgotten nor removed."""
    forgotten: dict[int, tuple[int, int]]
    """Root and number of the newest entry of each point that can be restored."""
    prunes: Prunes


def look_at_points(actor: Actor) -> Program[Points]:
    """List points, their logs, and then prunes: an object that reappeared is named by a verdict."""
    manifests = yield from list_points()
    logs = yield from list_logs(actor)
    prunes = yield from list_prunes()
    living, forgotten = {}, {}
    for commit, value in manifests.items():
        if not isinstance(value, Manifest) or commit in prunes.points:
            continue
        number, kind = logs.get(commit, (0, Kind.RESTORED))
        if kind is Kind.RESTORED:
            living[commit] = value.root
        elif kind is Kind.FORGOTTEN:
            forgotten[commit] = value.root, number
    return Points(living, forgotten, prunes)


def list_packs() -> Program[dict[int, Pack]]:
    objects = yield from list_all(Prefix.PACKS)
    return {_id(name): value for name, value in objects.items() if isinstance(value, Pack)}


def check_removed(actor: Actor, commit: int) -> Program[bool]:
    """Return whether a verdict names *commit*, which decides about a create that succeeded late."""
    if Rule.CHECK_AFTER_CREATE not in actor.rules:
        return False
    return commit in (yield from list_prunes()).points


def _id(name: Name) -> int:
    assert isinstance(name, int)
    return name


def _pair(name: Name) -> tuple[int, int]:
    assert isinstance(name, tuple)
    return name


def use_of(value: Value) -> int:
    """Return the point of a pin or a hold."""
    assert not isinstance(value, Pack)
    return value.point  # type: ignore[union-attr]
