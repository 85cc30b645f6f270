"""A writer: captures a disk, or copies a point from another repository."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tools.model.actor import Actor
from tools.model.programs.client import create, delete, get
from tools.model.programs.look import Points, check_removed, list_packs, look_at_points
from tools.model.requests import UNANSWERED, Choose, Create, Pause, Program
from tools.model.rules import Rule
from tools.model.store import Intent, Manifest, Pack, Prefix, Tombstone


@dataclass(frozen=True, slots=True)
class _Look:
    """What a writer knows when it decides which objects it has to store."""

    points: Points
    packs: Mapping[int, Pack]


def capture(actor: Actor) -> Program[None]:
    """Capture a disk, relative to one of the points."""
    yield from _write(actor, actor.new_id(), None)


def copy(actor: Actor, label: int, root: int) -> Program[None]:
    """Copy the point *label* with the content *root* from another repository."""
    run = actor.new_id() if Rule.RUN_NAMES_COMMIT in actor.rules else label
    yield from _write(actor, run, root)


def _write(actor: Actor, run: int, content: int | None) -> Program[None]:
    rules = actor.rules
    if Rule.INTENT_FIRST in rules:
        yield from _announce(actor, run)
    look = yield from _look(actor)
    if Rule.INTENT_FIRST not in rules:
        yield from _announce(actor, run)
    root = content
    if root is None:
        roots = sorted(look.points.living.values())
        base = roots[(yield Choose(len(roots)))] if roots else None
        root = actor.new_root(base)
        assumed = actor.forest.closure(base) if base is not None else frozenset[int]()
    else:
        assumed = frozenset()
    if Rule.RESOLVE_BASE in rules:
        assumed = frozenset()
    new = _absent(actor, root, _usable(actor, look), assumed)
    for start in range(0, len(new), actor.pack_objects):
        pack = Pack(tuple(new[start : start + actor.pack_objects]))
        name = actor.new_id()
        yield from create(actor, (Prefix.PACKS, name), pack)
        actor.machine.catalog[name] = pack
    yield Pause()
    if actor.aborts:
        yield from delete((Prefix.INTENTS, run))  # It has sent no commit.
    else:
        yield from commit(actor, run, root)


def commit(actor: Actor, run: int, root: int) -> Program[None]:
    """Commit a run, acknowledge the point, and remove the intent."""
    if (yield from _commit(actor, run, root)):
        actor.record.committed(run, root)
    yield from delete((Prefix.INTENTS, run))


def _announce(actor: Actor, run: int) -> Program[None]:
    if Rule.INTENT_KNOWN in actor.rules:
        yield from create(actor, (Prefix.INTENTS, run), Intent())
    else:
        yield Create((Prefix.INTENTS, run), Intent())


def _look(actor: Actor) -> Program[_Look]:
    """List points and prunes; take packs from the catalog or list them as well."""
    machine = actor.machine
    if Rule.LOOK_AFTER_INTENT not in actor.rules and isinstance(machine.last_look, _Look):
        return machine.last_look
    points = yield from look_at_points(actor)
    if not machine.catalog or (yield Choose(2)):
        machine.catalog.update((yield from list_packs()))
    packs = {n: pack for n, pack in machine.catalog.items() if n not in points.prunes.packs}
    machine.catalog.clear()
    machine.catalog.update(packs)
    machine.last_look = _Look(points, packs)
    return _Look(points, packs)


def _usable(actor: Actor, look: _Look) -> set[int]:
    """Return the objects in packs that no prune has condemned."""
    condemned = look.points.prunes.condemned
    if Rule.AVOID_CONDEMNED not in actor.rules:
        condemned = frozenset()
    packs = (pack for name, pack in look.packs.items() if name not in condemned)
    return {number for pack in packs for number in pack.objects}


def _absent(actor: Actor, root: int, present: set[int], assumed: Iterable[int]) -> list[int]:
    """Return the objects of a tree that have to be stored, children before parents."""
    known = present | {*assumed}
    is_deep = Rule.WHOLE_SUBTREE in actor.rules
    absent: dict[int, None] = {}

    def is_present(number: int) -> bool:
        if number not in known:
            return False
        return not is_deep or all(is_present(child) for child in actor.forest.children(number))

    def put(number: int) -> None:
        if not is_present(number):
            for child in actor.forest.children(number):
                put(child)
            absent[number] = None

    put(root)
    return list(absent)


def _commit(actor: Actor, run: int, root: int) -> Program[bool]:
    """Create the manifest; return whether the point may be acknowledged."""
    key = Prefix.POINTS, run
    manifest = Manifest(root)
    is_retry = False
    while True:
        reply = yield Create(key, manifest)
        if reply is UNANSWERED:
            is_retry = True
            if (yield Choose(2)):
                return (yield from _abandon(actor, run, manifest))
        elif reply or (is_retry and Rule.COMPARE_CONTENT not in actor.rules):
            break
        elif (yield from get(key)) != manifest:
            return False
        else:
            break
    return not (yield from check_removed(actor, run))


def _abandon(actor: Actor, run: int, manifest: Manifest) -> Program[bool]:
    """Give up a commit without a reply; return whether the point exists all the same."""
    if Rule.FENCE_BEFORE_ABANDON not in actor.rules:
        return False
    key = Prefix.POINTS, run
    if (yield from create(actor, key, Tombstone(run))):
        return False
    if (yield from get(key)) != manifest:
        return False
    return not (yield from check_removed(actor, run))
