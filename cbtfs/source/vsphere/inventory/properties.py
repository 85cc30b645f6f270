"""Read properties of many managed objects in one call (vSphere SDK, PropertyCollector)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vmodl

from cbtfs.errors import SourceUnavailable
from cbtfs.source.vsphere.connect.faults import raise_ended, text_of, translated_faults
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
        """Raise SourceUnavailable if one of the properties could not be read."""
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
        selectSet=[Collector.SelectionSpec(name=step) for step in then],
    )


def retrieve(
    session: Session, start: Any, wanted: Sequence[Any], steps: Sequence[Any] = ()
) -> list[ObjectProperties]:
    """Return the properties of *start* and of the objects that *steps* reach, from all pages.

    ObjectGone if *start* no longer exists.
    """
    selection = Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=start, skip=False, selectSet=list(steps))],
        propSet=list(wanted),
    )
    what = "read properties"
    with translated_faults(what):
        return session.repeat(lambda: list(_pages(session, selection)), what)


def retrieve_each(
    session: Session, objects: Sequence[Any], wanted: Sequence[Any]
) -> list[ObjectProperties]:
    """Return the properties of each of *objects*; deleted objects are absent."""
    what = "read properties"
    items: list[ObjectProperties] = []
    for start in range(0, len(objects), _OBJECTS):
        selection = Collector.FilterSpec(
            objectSet=[
                Collector.ObjectSpec(obj=managed, skip=False)
                for managed in objects[start : start + _OBJECTS]
            ],
            propSet=list(wanted),
            reportMissingObjectsInResults=True,
        )
        with translated_faults(what):
            items += session.repeat(lambda spec=selection: list(_pages(session, spec)), what)  # type: ignore[misc]
    return items


def _pages(session: Session, selection: Any) -> Iterator[ObjectProperties]:
    collector = session.content.propertyCollector
    options = Collector.RetrieveOptions(maxObjects=_PAGE)
    page = collector.RetrievePropertiesEx([selection], options)
    for _ in range(session.retry_policy.max_pages):
        if page is None:
            return
        for content in page.objects:
            raise_ended(content.missingSet)
            yield ObjectProperties(
                content.obj,
                {prop.name: prop.val for prop in content.propSet},
                {missing.path: missing.fault for missing in content.missingSet},
            )
        if not page.token:
            return
        page = collector.ContinueRetrievePropertiesEx(page.token)
    raise SourceUnavailable(
        f"{session.address} answers with more than {session.retry_policy.max_pages} pages of "
        "properties: check which program answers there"
    )


def read(session: Session, start: Any, *paths: str) -> Mapping[str, Any]:
    """Return the properties of one object; SourceUnavailable if one cannot be read."""
    items = retrieve(session, start, [properties(type(start), *paths)])
    if not items:
        return {}
    items[0].require()
    return items[0].values
