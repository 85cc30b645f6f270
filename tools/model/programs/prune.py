"""Prune: marks, rewrites, names its candidates, waits for intents, decides, deletes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tools.model.actor import Actor
from tools.model.programs.client import create, delete, get, list_all
from tools.model.programs.look import (
    Logs,
    Prunes,
    list_logs,
    list_packs,
    list_points,
    list_prunes,
    use_of,
)
from tools.model.programs.reader import EXPIRY_HOURS
from tools.model.requests import Choose, Create, Delete, Pause, Program
from tools.model.rules import Rule
from tools.model.store import (
    CANDIDATES,
    VERDICT,
    Candidates,
    Entry,
    Kind,
    Manifest,
    Pack,
    Prefix,
    Tombstone,
    Use,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Result of a mark."""

    live: frozenset[int]
    """Objects that a root needs."""
    fenced: frozenset[int]
    """Runs with a tombstone."""
    over: frozenset[int]
    """Points that are forgotten for ever and that no reader needs."""
    prunes: Prunes


def prune(actor: Actor, *, patience: int = 6) -> Program[None]:
    """Complete unfinished prunes, then begin and complete one.

    *patience* is the largest number of times that it looks whether a run has ended.
    """
    for number, begun in (yield from list_prunes()).unfinished.items():
        if (yield Choose(2)):
            yield from finish(actor, number, begun, None, patience=patience)
    early_users = yield from _early_users(actor)
    if Rule.FINAL_BEFORE_MARK in actor.rules:
        yield from make_final(actor, early_users)
    packs = yield from list_packs()
    mark = yield from _mark(actor, early_users)
    candidates = yield from _select(actor, packs, mark)
    early_intents: Iterable[int] | None = None
    if Rule.INTENTS_AFTER_CANDIDATES not in actor.rules:
        early_intents = yield from _intents()
    me = actor.new_id()
    key, value = (Prefix.PRUNES, (me, CANDIDATES)), Candidates(candidates)
    if Rule.CANDIDATES_KNOWN in actor.rules:
        yield from create(actor, key, value)
    else:
        yield Create(key, value)
    yield from finish(
        actor,
        me,
        candidates,
        early_intents,
        patience=patience,
        is_own=True,
        early_users=early_users,
    )


def finish(
    actor: Actor,
    number: int,
    candidates: frozenset[int],
    intents: Iterable[int] | None,
    *,
    patience: int,
    is_own: bool = False,
    early_users: frozenset[int] | None = None,
) -> Program[None]:
    """Complete a prune whose candidates exist, also one that another process has begun."""
    if early_users is None:
        early_users = yield from _early_users(actor)
    if Rule.WAIT_FOR_INTENTS in actor.rules and (is_own or Rule.ADOPT_WAITS in actor.rules):
        for run in (yield from _intents()) if intents is None else intents:
            yield from _wait(actor, run, patience)
    mark = yield from _mark(actor, early_users)
    packs = yield from list_packs()
    verdict = _decide(actor, packs, candidates, mark)
    key = Prefix.PRUNES, (number, VERDICT)
    if Rule.VERDICT_FIRST not in actor.rules:
        yield from _delete_packs(verdict.packs & packs.keys())
    recorded = _recorded(actor, verdict, mark)
    if not (yield from create(actor, key, recorded)) and Rule.VERDICT_FIRST in actor.rules:
        first = yield from get(key)
        assert isinstance(first, Verdict)
        verdict = first
    yield from _sweep(actor, verdict, number)


def _intents() -> Program[list[int]]:
    names = yield from list_all(Prefix.INTENTS)
    return [name for name in names if isinstance(name, int)]


def _early_users(actor: Actor) -> Program[frozenset[int] | None]:
    """Return pinned and held points if they are listed too early, for the model without a rule."""
    if Rule.PINS_AFTER_FINALS in actor.rules:
        return None
    return (yield from _users(actor))


def _users(actor: Actor) -> Program[frozenset[int]]:
    """Return the points that pins and valid holds name."""
    users = {use_of(value) for value in (yield from list_all(Prefix.PINS)).values()}
    if Rule.HOLDS_KEEP not in actor.rules:
        return frozenset(users)
    holds = yield from list_all(Prefix.HOLDS)
    beats: dict[int, tuple[int, float]] = {}
    for name, value in (yield from list_all(Prefix.BEATS)).items():
        assert isinstance(name, tuple)
        assert isinstance(value, Use)
        beats[name[0]] = max(beats.get(name[0], (0, 0.0)), (name[1], value.stamp))
    for hold, value in holds.items():
        assert isinstance(hold, int)
        assert isinstance(value, Use)
        number, stamp = beats.get(hold, (0, value.stamp))
        if not _is_expired(actor, hold, number, stamp):
            users.add(value.point)
    return frozenset(users)


def _is_expired(actor: Actor, hold: int, number: int, stamp: float) -> bool:
    if Rule.HOLD_BY_OWN_CLOCK not in actor.rules:
        return actor.time_of_day() - stamp >= EXPIRY_HOURS
    now = actor.clock()
    known = actor.machine.beats.get(hold)
    if known is None or known[0] != number:
        actor.machine.beats[hold] = number, now
        return False
    return now - known[1] >= EXPIRY_HOURS


def make_final(actor: Actor, early_users: frozenset[int] | None = None) -> Program[None]:
    """Give each forgotten point that nobody uses an entry that no unforget can follow."""
    logs = yield from list_logs(actor)
    users = (yield from _users(actor)) if early_users is None else early_users
    for commit, (number, kind) in logs.items():
        if kind is Kind.FORGOTTEN and commit not in users:
            entry = Entry(Kind.FINAL, actor.new_id())
            yield from create(actor, (Prefix.FORGOTTEN, (commit, number + 1)), entry)


def _mark(actor: Actor, early_users: frozenset[int] | None) -> Program[_Mark]:
    """List points, logs, then pins and holds, then prunes; mark the objects of all roots."""
    points = yield from list_points()
    logs = yield from list_logs(actor)
    users = (yield from _users(actor)) if early_users is None else early_users
    prunes = yield from list_prunes()
    live: set[int] = set()
    fenced, over = set(), set()
    for commit, value in points.items():
        if isinstance(value, Tombstone):
            fenced.add(commit)
        elif isinstance(value, Manifest) and commit not in prunes.points:
            if commit in users or not _is_over(actor, logs, commit):
                live |= actor.forest.closure(value.root)
            else:
                over.add(commit)
    return _Mark(frozenset(live), frozenset(fenced), frozenset(over), prunes)


def _is_over(actor: Actor, logs: Logs, commit: int) -> bool:
    kind = logs.get(commit, (0, Kind.RESTORED))[1]
    if Rule.FINAL_BEFORE_MARK in actor.rules:
        return kind is Kind.FINAL
    return kind is not Kind.RESTORED


def _select(actor: Actor, packs: dict[int, Pack], mark: _Mark) -> Program[frozenset[int]]:
    """Choose packs to remove; write the live objects of packs that are mostly unused again."""
    avoided = mark.prunes.packs | mark.prunes.condemned
    usable = {name: pack for name, pack in packs.items() if name not in avoided}
    copies = Counter(n for pack in usable.values() for n in pack.objects)
    order = actor.new_id()
    candidates: set[int] = set()
    moved: list[int] = []
    for name in sorted(usable, key=lambda name: name ^ order):
        objects = usable[name].objects
        needed = [n for n in objects if n in mark.live and copies[n] == 1]
        if len(needed) * 2 > len(objects):
            continue
        moved += needed
        copies.subtract(objects)
        candidates.add(name)
    for start in range(0, len(moved), actor.pack_objects):
        pack = Pack(tuple(moved[start : start + actor.pack_objects]))
        unused = sorted(mark.prunes.packs - packs.keys())
        is_unique = Rule.UNIQUE_PACKS in actor.rules or not unused
        name = actor.new_id() if is_unique else unused[0]
        yield from create(actor, (Prefix.PACKS, name), pack)
    return frozenset(candidates)


def _wait(actor: Actor, run: int, patience: int) -> Program[None]:
    """Wait until a run has ended; fence it after a time that no clock makes exact."""
    for _ in range(patience):
        if (yield from get((Prefix.INTENTS, run))) is None:
            return
        if (yield Choose(2)):
            break
        yield Pause()
    if Rule.FENCE_STALE in actor.rules:
        key, value = (Prefix.POINTS, run), Tombstone(actor.new_id())
        if Rule.FENCE_KNOWN in actor.rules:
            yield from create(actor, key, value)
        else:
            yield Create(key, value)
    yield from delete((Prefix.INTENTS, run))


def _decide(
    actor: Actor, packs: dict[int, Pack], candidates: frozenset[int], mark: _Mark
) -> Verdict:
    """Return the verdict: a candidate is rescued if an object has no copy that surely stays."""
    points = mark.fenced | mark.over
    if Rule.SECOND_MARK not in actor.rules:
        return Verdict(candidates, points)
    avoided = mark.prunes.packs | candidates
    if Rule.COUNT_NO_CANDIDATES in actor.rules:
        avoided |= mark.prunes.condemned
    staying = {n for name, pack in packs.items() if name not in avoided for n in pack.objects}
    dropped = set()
    for name in sorted(candidates):
        if name not in packs or mark.live.intersection(packs[name].objects) <= staying:
            dropped.add(name)
        else:
            staying.update(packs[name].objects)
    return Verdict(frozenset(dropped), points)


def _recorded(actor: Actor, verdict: Verdict, mark: _Mark) -> Verdict:
    """Return the part of a verdict that is stored: all of it if no rule is omitted."""
    packs, points = verdict.packs, verdict.points
    if Rule.REMEMBER_PACKS not in actor.rules:
        packs = frozenset()
    if Rule.REMEMBER_FENCED not in actor.rules:
        points -= mark.fenced
    if Rule.REMEMBER_FORGOTTEN not in actor.rules:
        points -= mark.over
    return Verdict(packs, points)


def _sweep(actor: Actor, verdict: Verdict, number: int) -> Program[None]:
    """Delete what verdicts name, also what another process left or what reappeared."""
    prunes = yield from list_prunes()
    packs = yield from list_packs()
    yield from _delete_packs((prunes.packs | verdict.packs) & packs.keys())
    gone = prunes.points | verdict.points
    for commit in gone & (yield from list_points()).keys():
        yield Delete((Prefix.POINTS, commit))
    for name in (yield from list_all(Prefix.FORGOTTEN)):
        if isinstance(name, tuple) and name[0] in gone:
            yield Delete((Prefix.FORGOTTEN, name))
    for done in {*prunes.finished, number}:
        yield from delete((Prefix.PRUNES, (done, CANDIDATES)))


def _delete_packs(packs: Iterable[int]) -> Program[None]:
    for name in sorted(packs):
        yield Delete((Prefix.PACKS, name))
