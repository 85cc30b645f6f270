"""Answers that report every property as missing, as a server sends them after a session ended."""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from tools.vsim.fault import Fault
from tools.vsim.soap.request import Request
from tools.vsim.soap.vmodl import Collector, method_fault, typed


class SpecifiedFilter(Protocol):
    """A property filter, as the answers below use it."""

    @property
    def object(self) -> Any: ...

    @property
    def spec(self) -> Any: ...


def unread_answer(request: Request, filters: Iterable[SpecifiedFilter], fault: Fault) -> Any:
    """Return the result of a property read in which *fault* prevents every read.

    *filters* are the filters of the called collector. The result is None if the method does not
    read properties. Traversals are not followed, since that takes reading a property.
    """
    if request.method == "RetrievePropertiesEx":
        contents = [
            Collector.ObjectContent(obj=start.obj, missingSet=missing)
            for spec in request.arguments["specSet"]
            for start, missing in _unread(spec, fault)
        ]
        return Collector.RetrieveResult(objects=contents)
    if request.method == "WaitForUpdatesEx":
        return unread_updates(filters, fault)
    return None


def unread_updates(filters: Iterable[SpecifiedFilter], fault: Fault) -> Any:
    """Return an UpdateSet in which every property of the filters is missing."""
    sets = [
        Collector.FilterUpdate(
            filter=member.object,
            objectSet=[
                Collector.ObjectUpdate(
                    kind=typed(Collector.ObjectUpdate.Kind, "modify"),
                    obj=start.obj,
                    missingSet=missing,
                )
                for start, missing in _unread(member.spec, fault)
            ],
        )
        for member in filters
    ]
    return Collector.UpdateSet(version="unread", filterSet=sets, truncated=False)


def _unread(spec: Any, fault: Fault) -> Iterator[tuple[Any, list[Any]]]:
    for start in spec.objectSet:
        paths = [
            path
            for prop_spec in spec.propSet
            if issubclass(type(start.obj), prop_spec.type)
            for path in prop_spec.pathSet
        ]
        if paths and not start.skip:
            yield (
                start,
                [Collector.MissingProperty(path=path, fault=method_fault(fault)) for path in paths],
            )
