"""Programs of a version with one writer on a local directory, and the upgrade to many writers."""

from typing import Final

from tools.model.actor import Actor
from tools.model.programs.client import get, list_all
from tools.model.programs.look import list_packs
from tools.model.requests import Acquire, Create, Delete, Program, Release, Replace
from tools.model.rules import Rule
from tools.model.store import Manifest, Pack, Prefix, Settings, Use

SETTINGS: Final = (Prefix.SETTINGS, 0)
SHARED: Final = "shared-writers-1"
PINS: Final = "pins"
_WRITER, _POINTS = "writer", "points"
"""Locks: of the one writer, and of the directory of points, under which pins are made."""


def upgrade(actor: Actor) -> Program[None]:
    """Add the required feature, under the locks of everything that old programs change."""
    is_locked = Rule.UPGRADE_LOCKS_PINS in actor.rules
    yield Acquire(_WRITER)
    if is_locked:
        yield Acquire(_POINTS)
    features = yield from _features()
    yield Replace(SETTINGS, Settings(features | {SHARED}))
    if is_locked:
        yield Release(_POINTS)
    yield Release(_WRITER)


def old_capture(actor: Actor) -> Program[None]:
    """Capture as the one writer: without an intent, relative to everything in the packs."""
    if not (yield from _opened_by_old_writer(actor)):
        return
    packs = yield from list_packs()
    present = {number for pack in packs.values() for number in pack.objects}
    root = actor.new_root(None)
    absent = [n for n in sorted(actor.forest.closure(root)) if n not in present]
    if absent:
        yield Create((Prefix.PACKS, actor.new_id()), Pack(tuple(absent)))
    point = actor.new_id()
    yield Create((Prefix.POINTS, point), Manifest(root))
    actor.record.committed(point, root)
    yield Release(_WRITER)


def old_prune(actor: Actor) -> Program[None]:
    """Prune as the one writer: delete at once what no point needs."""
    if not (yield from _opened_by_old_writer(actor)):
        return
    points = yield from list_all(Prefix.POINTS)
    live: set[int] = set()
    for value in points.values():
        if isinstance(value, Manifest):
            live |= actor.forest.closure(value.root)
    for name, pack in (yield from list_packs()).items():
        if not live.intersection(pack.objects):
            yield Delete((Prefix.PACKS, name))
    yield Release(_WRITER)


def old_pin(actor: Actor, point: int) -> Program[None]:
    """Make the first pin, which adds a feature without the writer's lock."""
    if SHARED in (yield from _features()):
        return
    yield Acquire(_POINTS)
    features = yield from _features()
    if SHARED not in features:
        yield Replace(SETTINGS, Settings(features | {PINS}))
        yield Create((Prefix.PINS, actor.new_id()), Use(point))
    yield Release(_POINTS)


def _opened_by_old_writer(actor: Actor) -> Program[bool]:
    """Take the writer's lock; return whether the program supports the repository."""
    if SHARED in (yield from _features()):
        return False
    yield Acquire(_WRITER)
    if Rule.RELOAD_SETTINGS in actor.rules and SHARED in (yield from _features()):
        yield Release(_WRITER)
        return False
    return True


def _features() -> Program[frozenset[str]]:
    value = yield from get(SETTINGS)
    assert isinstance(value, Settings)
    return value.features
