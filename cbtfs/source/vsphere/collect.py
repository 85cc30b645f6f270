"""Properties of managed objects, many in one call (vSphere Web Services SDK, PropertyCollector)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vmodl

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.faults import speaking, text_of
from cbtfs.source.vsphere.session import Session

Collector = vmodl.query.PropertyCollector


@dataclass(frozen=True, slots=True)
class Found:
    """One object and what it has; properties that are unset are not there."""

    object: Any
    values: Mapping[str, Any]
    missing: Mapping[str, Any]
    """Faults by property that could not be read."""

    @property
    def id(self) -> str:
        return str(self.object._moId)


def properties(kind: Any, *paths: str) -> Any:
    """Which properties to read of objects of that type."""
    return Collector.PropertySpec(type=kind, pathSet=list(paths))


def walk(name: str, kind: Any, path: str, *then: str) -> Any:
    """A step from objects of a type along one of their properties; *then* names the next ones."""
    return Collector.TraversalSpec(
        name=name,
        type=kind,
        path=path,
        skip=False,
        selectSet=[Collector.SelectionSpec(name=each) for each in then],
    )


def retrieve(
    session: Session, start: Any, wanted: Sequence[Any], steps: Sequence[Any] = ()
) -> list[Found]:
    """What *start* and the objects that *steps* lead to have, in as many pages as it takes.

    ObjectGone if *start* is no more.
    """
    selection = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=start, skip=False, selectSet=list(steps))],
        propSet=list(wanted),
    )
    what = "read properties"
    with speaking(what):
        return session.repeat(lambda: list(_pages(session, selection)), what)


def _pages(session: Session, selection: Any) -> Iterator[Found]:
    collector = session.content.propertyCollector
    page = collector.RetrievePropertiesEx([selection], Collector.RetrieveOptions())
    while page is not None:
        for each in page.objects:
            yield Found(
                each.obj,
                {one.name: one.val for one in each.propSet},
                {one.path: one.fault for one in each.missingSet},
            )
        if not page.token:
            return
        page = collector.ContinueRetrievePropertiesEx(page.token)


def read(session: Session, start: Any, *paths: str) -> Mapping[str, Any]:
    """The properties of one object; SourceUnavailable if one of them cannot be read."""
    found = retrieve(session, start, [properties(type(start), *paths)])
    values = found[0].values if found else {}
    for path, fault in found[0].missing.items() if found else ():
        raise SourceUnavailable(f"cannot read {path} of {start._moId}: {text_of(fault)}")
    return values
