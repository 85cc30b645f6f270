"""Which objects and properties a PropertyCollector filter covers, and their values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tools.vsim.api.base import ClientSession, ManagedObject, Site, invalid_property
from tools.vsim.fault import Fault, not_found
from tools.vsim.soap.vmodl import Collector, declared_properties, kind_name, method_fault


@dataclass(frozen=True, slots=True)
class Reading:
    """One object with the values of the selected properties."""

    target: ManagedObject
    values: dict[str, Any]
    missing: dict[str, Fault] = field(default_factory=dict)


def read_selected(
    site: Site, session: ClientSession, spec: Any, *, without_missing: bool = False
) -> list[Reading]:
    """Everything that a FilterSpec covers, as it is now. Raises InvalidProperty.

    An object to start from that is gone raises ManagedObjectNotFound, or is left out.
    """
    for wanted in spec.propSet:
        declared = declared_properties_of(wanted.type)
        for path in wanted.pathSet:
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
    """Declared properties; None for a type that no object here has, such as a base type."""
    try:
        return declared_properties(kind)
    except KeyError:
        return None


def read_object(session: ClientSession, target: ManagedObject, paths: list[str]) -> Reading:
    """The values of *paths*; unset ones are left out, forbidden ones are missing."""
    reading = Reading(target, {})
    computed: dict[str, Any] = {}
    for path in paths:
        try:
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
    """The properties that the spec asks of the object; None if it does not cover its type."""
    found: dict[str, None] = {}
    covered = False
    for wanted in spec.propSet:
        if issubclass(target.kind, wanted.type):
            covered = True
            names = list(declared_properties(target.kind)) if wanted.all else wanted.pathSet
            found.update(dict.fromkeys(str(name) for name in names))
    return list(found) if covered else None


def _selected(
    site: Site, session: ClientSession, spec: Any, without_missing: bool
) -> list[ManagedObject]:
    found: dict[str, ManagedObject] = {}
    for start in spec.objectSet:
        target = site.find(start.obj._moId, session)
        if target is None:
            if without_missing:
                continue
            raise not_found(start.obj._moId, kind_name(type(start.obj)))
        named = {each.name: each for each in _specs(start.selectSet) if each.name}
        walk = _Walk(site, session, named, found)
        if not start.skip:
            found.setdefault(target.moid, target)
        walk.follow(target, start.selectSet)
    return list(found.values())


def _specs(selections: Any) -> Iterator[Any]:
    for each in selections or ():
        if isinstance(each, Collector.TraversalSpec):
            yield each
            yield from _specs(each.selectSet)


@dataclass(frozen=True, slots=True)
class _Walk:
    site: Site
    session: ClientSession
    named: dict[str, Any]
    found: dict[str, ManagedObject]
    seen: set[tuple[str, int]] = field(default_factory=set)

    def follow(self, target: ManagedObject, selections: Any) -> None:
        for each in selections or ():
            step = each
            if not isinstance(each, Collector.TraversalSpec):
                if each.name not in self.named:
                    raise Fault(
                        "vmodl.fault.InvalidArgument",
                        f"No selection is named {each.name!r}.",
                        invalidProperty="selectSet",
                    )
                step = self.named[each.name]
            if issubclass(target.kind, step.type) and (target.moid, id(step)) not in self.seen:
                self.seen.add((target.moid, id(step)))
                self._step(target, step)

    def _step(self, target: ManagedObject, step: Any) -> None:
        value = target.read(str(step.path))
        references = value if isinstance(value, list) else [value]
        for reference in references:
            below = reference is not None and self.site.find(reference._moId, self.session)
            if below:
                if not step.skip:
                    self.found.setdefault(below.moid, below)
                self.follow(below, step.selectSet)


def missing_set(missing: Mapping[str, Fault]) -> list[Any]:
    """The MissingProperty values of a reading."""
    return [
        Collector.MissingProperty(path=path, fault=method_fault(fault))
        for path, fault in missing.items()
    ]
