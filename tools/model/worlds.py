"""Small worlds for exhaustive search, each about one danger."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from tools.model.actor import Actor
from tools.model.forest import Forest
from tools.model.network import Fate
from tools.model.programs.capture import capture, commit, copy
from tools.model.programs.old import SETTINGS, old_capture, old_pin, old_prune, upgrade
from tools.model.programs.points import forget, unforget
from tools.model.programs.prune import finish, make_final, prune
from tools.model.programs.reader import mount, overlay
from tools.model.requests import Create, Program
from tools.model.search import Setting, Start
from tools.model.store import (
    CANDIDATES,
    VERDICT,
    Candidates,
    Entry,
    Key,
    Kind,
    Manifest,
    Pack,
    Prefix,
    Settings,
    Tombstone,
    Value,
    Verdict,
)

A, B, C = 1, 2, 3
"""Packs."""
OLD, KEPT = 11, 12
"""Points: a forgotten one and a living one."""
LABEL: Final = 13
PRUNE: Final = 21


def _pack(name: int, *objects: int) -> tuple[Key, Value]:
    return (Prefix.PACKS, name), Pack(objects)


def _point(name: int, root: int) -> tuple[Key, Value]:
    return (Prefix.POINTS, name), Manifest(root)


def _entry(name: int, number: int, kind: Kind) -> tuple[Key, Value]:
    return (Prefix.FORGOTTEN, (name, number)), Entry(kind, 0)


_prune: Start = partial(prune, patience=1)


def _forest() -> tuple[Forest, int, int]:
    """Return a forest with two disks of one chunk."""
    forest = Forest(2)
    return forest, forest.node((0,)), forest.node((1,))


def _reuse(*programs: Start) -> Setting:
    """Return a forgotten point whose content a writer captures again, and a prune."""
    forest, old, kept = _forest()
    return Setting(
        forest,
        [
            _pack(A, 0, old),
            _pack(B, 1, kept),
            _point(OLD, old),
            _point(KEPT, kept),
            _entry(OLD, 1, Kind.FORGOTTEN),
        ],
        programs or (capture, _prune),
        old,
        acknowledged=[(OLD, old), (KEPT, kept)],
        forgotten=[(OLD, 1)],
    )


def reuse() -> Setting:
    return _reuse()


def reuse_with_fault() -> Setting:
    return replace(_reuse(), faults=1)


def lost_candidates() -> Setting:
    """Requests for candidates and verdicts fail."""
    return replace(_reuse(), faults=1, fault_prefix=Prefix.PRUNES)


def late_commit() -> Setting:
    """Requests for manifests and tombstones fail or arrive late."""
    return replace(_reuse(), faults=1, fault_prefix=Prefix.POINTS)


def lost_intent() -> Setting:
    """Requests for intents fail or arrive late."""
    return replace(_reuse(), faults=1, fault_prefix=Prefix.INTENTS)


def reuse_with_death() -> Setting:
    return replace(_reuse(), deaths=1)


def two_writers() -> Setting:
    return _reuse(capture, capture, _prune)


def restore() -> Setting:
    """A forgotten point is restored beside a prune."""
    return replace(_reuse(unforget, _prune), faults=1)


def restore_and_two_prunes() -> Setting:
    return _reuse(unforget, _prune, _prune)


def _used(*programs: Start) -> Setting:
    """Return a point that a reader uses, and that is forgotten and pruned."""
    forest, old, _ = _forest()
    return Setting(
        forest,
        [_pack(A, 0, old), _point(OLD, old)],
        programs,
        old,
        acknowledged=[(OLD, old)],
    )


_forget_last: Start = partial(forget, keep=0)


def pin() -> Setting:
    return _used(partial(overlay, pauses=1), _forget_last, _prune)


def pin_with_fault() -> Setting:
    return replace(pin(), faults=1)


def hold() -> Setting:
    """A reader, and hours in which it does not run."""
    setting = _used(partial(mount, rounds=1, is_reading=False), _forget_last, _prune)
    return replace(setting, pauses=2, pause_hours=12.5)


def hold_and_wrong_clock() -> Setting:
    """The clock of the prune is days ahead of that of the reader."""
    setting = _used(partial(mount, rounds=1, is_reading=False), _forget_then_prune)
    return replace(setting, offset_hours=100.0)


def hold_and_late_renewal() -> Setting:
    """Renewals of a hold lose their replies."""
    setting = _used(partial(mount, rounds=1, pauses=10, is_reading=False), _forget_then_prune)
    return replace(
        setting,
        pauses=2,
        pause_hours=12.5,
        faults=1,
        fault_prefix=Prefix.BEATS,
        fates=(Fate.REPLY_LOST,),
    )


def _forget_then_prune(actor: Actor) -> Program[None]:
    """Forget and prune twice on one machine, so that the second prune knows the hold."""
    yield from forget(actor, keep=0)
    yield from prune(actor, patience=0)
    yield from prune(actor, patience=0)


def two_copies() -> Setting:
    """Two hosts copy one point into a repository that has its content in a forgotten point."""
    setting = _reuse()
    start: Start = partial(copy, label=LABEL, root=setting.content)

    def abort(actor: Actor) -> Program[None]:
        actor.aborts = True
        yield from start(actor)

    return replace(setting, programs=(start, abort, _prune))


def two_prunes() -> Setting:
    """Two prunes and an object with two copies, of which each prune chooses one."""
    forest, old, _ = _forest()
    return Setting(
        forest,
        [_pack(A, 0, old), _pack(B, 0, old), _point(OLD, old)],
        (_prune, _prune),
        acknowledged=[(OLD, old)],
    )


def two_prunes_with_death() -> Setting:
    return replace(two_prunes(), programs=(_prune, _prune, _prune), deaths=1)


def _finish(actor: Actor, packs: frozenset[int]) -> Program[None]:
    yield from finish(actor, PRUNE, packs, None, patience=1)


def adopted() -> Setting:
    """A prune died after its candidates; two others complete it, and a third begins."""
    forest, old, _ = _forest()
    packs = frozenset({A})
    both: Start = partial(_finish, packs=packs)
    return Setting(
        forest,
        [
            _pack(A, 0, old),
            _pack(B, 0, old),
            _point(OLD, old),
            ((Prefix.PRUNES, (PRUNE, CANDIDATES)), Candidates(packs)),
        ],
        (both, both, _prune),
        acknowledged=[(OLD, old)],
    )


def two_verdicts() -> Setting:
    """Two hosts complete a prune with different verdicts, and another prune follows the first."""
    setting = adopted()
    other = PRUNE + 1
    condemned: tuple[Key, Value] = (Prefix.PRUNES, (other, CANDIDATES)), Candidates(frozenset({B}))
    rescued = Create((Prefix.PRUNES, (other, VERDICT)), Verdict(frozenset(), frozenset()))
    return replace(setting, objects=[*setting.objects, condemned], late=[rescued])


def adopted_with_writer() -> Setting:
    """A writer began before the candidates of a prune that died."""
    return _reuse(capture, _prune_and_die, _prune)


def _prune_and_die(actor: Actor) -> Program[None]:
    """Begin a prune and stop once its candidates exist."""
    program = prune(actor, patience=1)
    request = next(program)
    while True:
        reply = yield request
        key = getattr(request, "key", None)
        if key is not None and key[0] is Prefix.PRUNES:
            program.close()
            return
        request = program.send(reply)


def reappearing_pack() -> Setting:
    """A pack that a prune deletes reappears, and is deleted again by a late request."""
    setting = _reuse(capture, _prune_a)
    late = [Create(*item) for item in setting.objects if item[0] == (Prefix.PACKS, A)]
    return replace(setting, late=late, faults=1, fates=(Fate.COPIED,))


def _prune_a(actor: Actor) -> Program[None]:
    yield from prune(actor, patience=0)


def late_manifest() -> Setting:
    """The manifest of a forgotten point is created once more after a prune."""
    setting = _reuse(_prune, _prune)
    return replace(setting, late=[Create(*_point(OLD, setting.content))])


def fenced() -> Setting:
    """A run was fenced, its packs are gone; it commits, and an early try arrives late."""
    forest, old, kept = _forest()
    return Setting(
        forest,
        [_pack(B, 1, kept), _point(KEPT, kept), ((Prefix.POINTS, OLD), Tombstone(0))],
        (_prune, partial(commit, run=OLD, root=old)),
        acknowledged=[(KEPT, kept)],
        late=[Create(*_point(OLD, old))],
        faults=1,
    )


def condemned_base() -> Setting:
    """A point that was committed while a prune waited is base of a capture, and is forgotten."""
    forest, old, _ = _forest()
    packs = frozenset({A})
    return Setting(
        forest,
        [
            _pack(A, 0, old),
            _point(OLD, old),
            ((Prefix.PRUNES, (PRUNE, CANDIDATES)), Candidates(packs)),
        ],
        (capture, partial(_finish, packs=packs), _forget_for_ever),
        old,
        acknowledged=[(OLD, old)],
    )


def _forget_for_ever(actor: Actor) -> Program[None]:
    yield from forget(actor, keep=0)
    yield from make_final(actor)


def _then_prune(actor: Actor) -> Program[None]:
    yield from upgrade(actor)
    yield from prune(actor, patience=0)


def _then_capture(actor: Actor) -> Program[None]:
    yield from upgrade(actor)
    yield from capture(actor)


def _upgraded(*programs: Start) -> Setting:
    setting = _reuse(*programs)
    return replace(setting, objects=[*setting.objects, (SETTINGS, Settings())])


def upgrade_and_old_capture() -> Setting:
    """An old capture waits for the lock while the repository is upgraded and then pruned."""
    return replace(_upgraded(_then_prune, old_capture), deaths=1, is_local=True)


def upgrade_and_old_prune() -> Setting:
    """An old prune waits for the lock while the repository is upgraded."""
    setting = replace(_upgraded(_then_capture, old_prune), deaths=1, is_local=True)
    objects = [item for item in setting.objects if item[0][1] not in (A, OLD, (OLD, 1))]
    return replace(setting, objects=objects)


def upgrade_and_old_pin() -> Setting:
    """An old overlay makes the first pin during the upgrade; then an old prune begins."""
    setting = upgrade_and_old_prune()
    return replace(
        setting, programs=(_then_capture, partial(old_pin, point=KEPT), old_prune), deaths=0
    )


WORLDS: Final[dict[str, Callable[[], Setting]]] = {
    "reuse": reuse,
    "reuse-fault": reuse_with_fault,
    "lost-candidates": lost_candidates,
    "late-commit": late_commit,
    "lost-intent": lost_intent,
    "reuse-death": reuse_with_death,
    "two-writers": two_writers,
    "restore": restore,
    "restore-2-prunes": restore_and_two_prunes,
    "pin": pin,
    "pin-fault": pin_with_fault,
    "hold": hold,
    "hold-clock": hold_and_wrong_clock,
    "hold-renewal": hold_and_late_renewal,
    "two-copies": two_copies,
    "two-prunes": two_prunes,
    "two-prunes-death": two_prunes_with_death,
    "adopted": adopted,
    "two-verdicts": two_verdicts,
    "adopted-writer": adopted_with_writer,
    "reappearing-pack": reappearing_pack,
    "late-manifest": late_manifest,
    "fenced": fenced,
    "condemned-base": condemned_base,
    "upgrade-old-capture": upgrade_and_old_capture,
    "upgrade-old-prune": upgrade_and_old_prune,
    "upgrade-old-pin": upgrade_and_old_pin,
}
