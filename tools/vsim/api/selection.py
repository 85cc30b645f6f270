"""The objects and properties that a PropertyCollector filter covers, and their values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from tools.vsim.api.base import ClientSession, ManagedObject, Site, invalid_property
from tools.vsim.fault import Fault, no_permission, not_found
from tools.vsim.soap.vmodl import Collector, declared_properties, kind_name, method_fault


@dataclass(frozen=True, slots=True)
class Reading:
    """An object with the values of its selected properties."""

    target: ManagedObject
    values: dict[str, Any]
    missing: dict[str, Fault] = field(default_factory=dict)


def read_selected(
    site: Site, session: ClientSession, spec: Any, *, without_missing: bool = False
) -> list[Reading]:
    """Return the present values of all that a FilterSpec covers; raises InvalidProperty.

    A missing start object raises ManagedObjectNotFound, or is left out with *without_missing*.
    """
    for prop_spec in spec.propSet:
        declared = declared_properties_of(prop_spec.type)
        for path in prop_spec.pathSet:
            if declared is not None and str(path).partition(".")[0] not in declared:
                raise invalid_property(str(path))
    readings = []
    without_missing = without_missing or bool(spec.reportMissingObjectsInResults)
    for target in _selected(site, session, spec, without_missing):
        paths = _paths(target, spec)
        if paths is not None:
            readings.append(read_object(session, target, paths))
    return readings


def declared_properties_of(kind: Any) -> dict[str, Any] | None:
    """Return the declared properties; None for a type that the simulator has no object of."""
    try:
        return declared_properties(kind)
    except KeyError:
        return None


def read_object(session: ClientSession, target: ManagedObject, paths: list[str]) -> Reading:
    """Read *paths* of an object: unset values are left out, forbidden ones are in `missing`."""
    reading = Reading(target, {})
    computed: dict[str, Any] = {}
    unreadable = target.site.world.knobs.session.unreadable
    for path in paths:
        try:
            if fnmatchcase(path, unreadable):
                raise no_permission(target.ref, "System.Read")
            session.require("System.Read", target.ref)
            value = target.read(path, computed)
        except Fault as fault:
            if fault.name == "vmodl.query.InvalidProperty":
                raise
            reading.missing[path] = fault
            continue
        if value is not None:
            reading.values[path] = value
    return reading


def _paths(target: ManagedObject, spec: Any) -> list[str] | None:
    """Return the selected properties of an object; None if the spec excludes its type."""
    selected: dict[str, None] = {}
    covered = False
    for prop_spec in spec.propSet:
        if issubclass(target.kind, prop_spec.type):
            covered = True
            names = list(declared_properties(target.kind)) if prop_spec.all else prop_spec.pathSet
            selected.update(dict.fromkeys(str(name) for name in names))
    return list(selected) if covered else None


def _selected(
    site: Site, session: ClientSession, spec: Any, without_missing: bool
) -> list[ManagedObject]:
    selected: dict[str, ManagedObject] = {}
    for start in spec.objectSet:
        target = site.find(start.obj._moId, session)
        if target is None:
            if without_missing:
                continue
            raise not_found(start.obj._moId, kind_name(type(start.obj)))
        named = {step.name: step for step in _specs(start.selectSet) if step.name}
        walk = _Walk(site, session, named, selected)
        if not start.skip:
            selected.setdefault(target.moid, target)
        walk.follow(target, start.selectSet)
    return list(selected.values())


def _specs(selections: Any) -> Iterator[Any]:
    for selection in selections or ():
        if isinstance(selection, Collector.TraversalSpec):
            yield selection
            yield from _specs(selection.selectSet)


@dataclass(frozen=True, slots=True)
class _Walk:
    site: Site
    session: ClientSession
    named: dict[str, Any]
    selected: dict[str, ManagedObject]
    visited: set[tuple[str, int]] = field(default_factory=set)

    def follow(self, target: ManagedObject, selections: Any) -> None:
        for selection in selections or ():
            step = selection
            if not isinstance(selection, Collector.TraversalSpec):
                if selection.name not in self.named:
                    raise Fault(
                        "vmodl.fault.InvalidArgument",
                        f"No selection is named {selection.name!r}.",
                        invalidProperty="selectSet",
                    )
                step = self.named[selection.name]
            if issubclass(target.kind, step.type) and (target.moid, id(step)) not in self.visited:
                self.visited.add((target.moid, id(step)))
                self._step(target, step)

    def _step(self, target: ManagedObject, step: Any) -> None:
        value = target.read(str(step.path))
        references = value if isinstance(value, list) else [value]
        for reference in references:
            below = reference is not None and self.site.find(reference._moId, self.session)
            if below:
                if not step.skip:
                    self.selected.setdefault(below.moid, below)
                self.follow(below, step.selectSet)


def missing_set(missing: Mapping[str, Fault]) -> list[Any]:
    """Return the MissingProperty values of a reading."""
    return [
        Collector.MissingProperty(path=path, fault=method_fault(fault))
        for path, fault in missing.items()
    ]
