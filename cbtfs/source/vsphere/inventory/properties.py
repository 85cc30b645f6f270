"""Properties of managed objects, many in one call (vSphere Web Services SDK, PropertyCollector)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vmodl

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.faults import raise_ended, speaking, text_of
from cbtfs.source.vsphere.connect.session import Session

Collector = vmodl.query.PropertyCollector

_OBJECTS: Final = 100
"""Objects requested in one call: the configuration of a VM is about 20 kB of XML."""


_PAGE: Final = 1000
"""Maximum number of objects in one answer."""


@dataclass(frozen=True, slots=True)
class ObjectProperties:
    """One managed object and its properties; unset ones are absent."""

    object: Any
    values: Mapping[str, Any]
    missing: Mapping[str, Any]
    """Fault of each property that could not be read."""

    @property
    def id(self) -> str:
        return str(self.object._moId)

    def require(self) -> None:
        """SourceUnavailable if one of the properties could not be read."""
        for path, fault in self.missing.items():
            raise SourceUnavailable(f"cannot read {path} of {self.id}: {text_of(fault)}")


def properties(kind: Any, *paths: str) -> Any:
    """Return the specification of the properties to read from objects of a type."""
    return Collector.PropertySpec(type=kind, pathSet=list(paths))


def walk(name: str, kind: Any, path: str, *then: str) -> Any:
    """Return a traversal along a property of a type; *then* names the following steps."""
    return Collector.TraversalSpec(
        name=name,
        type=kind,
        path=path,
        skip=False,
        selectSet=[Collector.SelectionSpec(name=each) for each in then],
    )


def retrieve(
    session: Session, start: Any, wanted: Sequence[Any], steps: Sequence[Any] = ()
) -> list[ObjectProperties]:
    """Return the properties of *start* and of the objects that *steps* reach, from all pages.

    ObjectGone if *start* does not exist any more.
    """
    selection = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=start, skip=False, selectSet=list(steps))],
        propSet=list(wanted),
    )
    what = "read properties"
    with speaking(what):
        return session.repeat(lambda: list(_pages(session, selection)), what)


def retrieve_each(
    session: Session, objects: Sequence[Any], wanted: Sequence[Any]
) -> list[ObjectProperties]:
    """Return the properties of each of *objects*; deleted objects are absent."""
    what = "read properties"
    found: list[ObjectProperties] = []
    for start in range(0, len(objects), _OBJECTS):
        selection = Collector.FilterSpec(
            objectSet=[
                Collector.ObjectSpec(obj=each, skip=False)
                for each in objects[start : start + _OBJECTS]
            ],
            propSet=list(wanted),
            reportMissingObjectsInResults=True,
        )
        with speaking(what):
            found += session.repeat(lambda spec=selection: list(_pages(session, spec)), what)  # type: ignore[misc]
    return found


def _pages(session: Session, selection: Any) -> Iterator[ObjectProperties]:
    collector = session.content.propertyCollector
    options = Collector.RetrieveOptions(maxObjects=_PAGE)
    page = collector.RetrievePropertiesEx([selection], options)
    for _ in range(session.retry_policy.max_pages):
        if page is None:
            return
        for each in page.objects:
            raise_ended(each.missingSet)
            yield ObjectProperties(
                each.obj,
                {one.name: one.val for one in each.propSet},
                {one.path: one.fault for one in each.missingSet},
            )
        if not page.token:
            return
        page = collector.ContinueRetrievePropertiesEx(page.token)
    raise SourceUnavailable(
        f"{session.address} answers with more than {session.retry_policy.max_pages} pages of "
        "properties: it is not read further; see what answers there"
    )


def read(session: Session, start: Any, *paths: str) -> Mapping[str, Any]:
    """Return the properties of one object; SourceUnavailable if one cannot be read."""
    found = retrieve(session, start, [properties(type(start), *paths)])
    if not found:
        return {}
    found[0].require()
    return found[0].values
