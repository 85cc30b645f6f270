"""ObjectUpdates between two states of the filtered objects."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyVmomi.VmomiSupport import DataObject

from tools.vsim.api.selection import Reading, missing_set
from tools.vsim.fault import Fault, MoRef
from tools.vsim.soap.reply import fingerprint
from tools.vsim.soap.vmodl import Collector, managed_object, typed

Change = Collector.Change
ObjectUpdate = Collector.ObjectUpdate


@dataclass(frozen=True, slots=True)
class ObjectState:
    """The state of an object as a client last received it."""

    ref: MoRef
    values: Mapping[str, Any]
    texts: Mapping[str, str]
    missing: Mapping[str, Fault] = field(default_factory=dict)

    @classmethod
    def of(cls, reading: Reading, version: str) -> "ObjectState":
        """Return the state of an object that was just read."""
        texts = {path: fingerprint(value, version) for path, value in reading.values.items()}
        return cls(reading.target.ref, reading.values, texts, reading.missing)


FilterState = dict[str, ObjectState]  # by object id


def updates_between(
    old: FilterState, new: FilterState, partial: bool, version: str
) -> Iterator[tuple[str, Any]]:
    """Return object id and ObjectUpdate of the objects that entered, changed or left."""
    for moid, known in new.items():
        before = old.get(moid)
        if before is None:
            yield moid, _update("enter", known, [_assign(*item) for item in known.values.items()])
        elif before.texts != known.texts or before.missing.keys() != known.missing.keys():
            changes = list(_changes(before, known, partial, version))
            if changes or known.missing.keys() - before.missing.keys():
                yield moid, _update("modify", known, changes)
    for moid, known in old.items():
        if moid not in new:
            yield (
                moid,
                ObjectUpdate(kind=typed(ObjectUpdate.Kind, "leave"), obj=managed_object(known.ref)),
            )


def _update(kind: str, known: ObjectState, changes: list[Any]) -> Any:
    return ObjectUpdate(
        kind=typed(ObjectUpdate.Kind, kind),
        obj=managed_object(known.ref),
        changeSet=changes,
        missingSet=missing_set(known.missing),
    )


def _assign(path: str, value: Any) -> Any:
    return Change(name=path, op=typed(Change.Op, "assign"), val=value)


def _changes(before: ObjectState, now: ObjectState, partial: bool, version: str) -> Iterator[Any]:
    for path in {**before.texts, **now.texts}:
        if before.texts.get(path) == now.texts.get(path) or path in now.missing:
            continue
        old, new = before.values.get(path), now.values.get(path)
        if partial and isinstance(old, DataObject) and isinstance(new, DataObject):
            yield from _fields(path, old, new, version)
        else:
            yield _assign(path, new)


def _fields(path: str, old: Any, new: Any, version: str) -> Iterator[Any]:
    for info in new._GetPropertyList():
        value = typed(info.type, getattr(new, info.name))
        before = typed(info.type, getattr(old, info.name, None))
        if isinstance(value, list) and not value:
            value = None
        if isinstance(before, list) and not before:
            before = None
        if fingerprint(before, version) != fingerprint(value, version):
            yield _assign(f"{path}.{info.name}", value)
