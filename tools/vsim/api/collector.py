"""PropertyCollector: retrieval with pages, filters, updates with versions."""

import math
from itertools import count
from typing import Any
from uuid import uuid4

from tools.vsim.api.base import ClientSession, MethodCall, Properties, SessionObject, Site
from tools.vsim.api.selection import Reading, missing_set, read_selected
from tools.vsim.api.unread import unread_updates
from tools.vsim.api.updates import FilterState, ObjectState, updates_between
from tools.vsim.fault import Fault, invalid_argument, not_authenticated
from tools.vsim.soap.vmodl import Collector, vmodl

KEPT_VERSIONS = 8  # a client may repeat a request with an older version


class Filter(SessionObject):
    """A property filter of a collector."""

    kind = Collector.Filter

    def __init__(
        self, owner: "PropertyCollector", session: ClientSession, spec: Any, partial: bool
    ) -> None:
        super().__init__(owner.site, f"session[{session.key}]{uuid4()}")
        self.owner = owner
        self.spec = spec
        self.partial = partial
        self._session = session
        self._read: tuple[int, str] | None = None  # generation and API version of the last state
        self._state: FilterState = {}

    def properties(self) -> Properties:
        return {"spec": lambda: self.spec, "partialUpdates": lambda: self.partial}

    def state(self, version: str) -> FilterState:
        """Return the present state of the objects that the filter covers.

        It is read once per generation, since a truncated update takes many calls.
        """
        if self._read != (self.site.world.generation, version):
            self._read = self.site.world.generation, version
            readings = read_selected(self.site, self._session, self.spec, without_missing=True)
            self._state = {
                reading.target.moid: ObjectState.of(reading, version) for reading in readings
            }
        return self._state

    def DestroyPropertyFilter(self, call: MethodCall) -> None:
        with self.site.world.changing():
            self._session.objects.pop(self.moid, None)
            self.owner.filters.pop(self.moid, None)


class PropertyCollector(SessionObject):
    """A property collector. Each session has one; CreatePropertyCollector makes more."""

    kind = Collector

    def __init__(self, site: Site, moid: str, session: ClientSession) -> None:
        super().__init__(site, moid)
        self._session = session
        self.filters: dict[str, Filter] = {}
        self._pages: dict[str, list[Any]] = {}
        self._page_size = 0
        self._states: dict[str, dict[str, FilterState]] = {}
        self._truncated: set[str] = set()
        self._versions = count(1)
        self._cancellations = 0
        self._ended = False
        session.objects[moid] = self

    def end(self) -> None:
        self._ended = True

    def properties(self) -> Properties:
        return {"filter": lambda: [member.object for member in self.filters.values()]}

    # retrieval

    def RetrieveProperties(self, call: MethodCall, specSet: list[Any]) -> list[Any]:
        return self._contents(specSet)

    def RetrievePropertiesEx(self, call: MethodCall, specSet: list[Any], options: Any) -> Any:
        limit = options.maxObjects if options else None
        if limit is not None and limit < 1:
            raise invalid_argument("options.maxObjects")
        policy = self.site.world.knobs.session.objects_per_page
        sizes = [size for size in (limit, policy) if size]
        contents = self._contents(specSet)
        return self._page(contents, min(sizes) if sizes else 0) if contents else None

    def ContinueRetrievePropertiesEx(self, call: MethodCall, token: str) -> Any:
        if token not in self._pages:
            raise invalid_argument("token")
        return self._page(self._pages.pop(token), self._page_size)

    def CancelRetrievePropertiesEx(self, call: MethodCall, token: str) -> None:
        if self._pages.pop(token, None) is None:
            raise invalid_argument("token")

    def _contents(self, specs: list[Any]) -> list[Any]:
        return [
            _content(reading)
            for spec in specs
            for reading in read_selected(self.site, self._session, spec)
        ]

    def _page(self, contents: list[Any], size: int) -> Any:
        result = Collector.RetrieveResult(objects=contents[:size] if size else contents)
        if self.site.world.knobs.answer.endless_pages:
            result.token = uuid4().hex
            self._pages[result.token] = contents
            return result
        if size and len(contents) > size:
            self._page_size = size
            result.token = uuid4().hex
            self._pages[result.token] = contents[size:]
        return result

    # filters and updates

    def CreatePropertyCollector(self, call: MethodCall) -> Any:
        moid = f"session[{call.caller.key}]{uuid4()}"
        return PropertyCollector(self.site, moid, call.caller).object

    def DestroyPropertyCollector(self, call: MethodCall) -> None:
        with self.site.world.changing():
            for moid in [self.moid, *self.filters]:
                self._session.objects.pop(moid, None)
            self._ended = True

    def CreateFilter(self, call: MethodCall, spec: Any, partialUpdates: bool) -> Any:
        read_selected(self.site, self._session, spec)  # raises if the spec is invalid
        filter_ = Filter(self, self._session, spec, partialUpdates)
        with self.site.world.changing():
            self._session.objects[filter_.moid] = filter_
            self.filters[filter_.moid] = filter_
        return filter_.object

    def CancelWaitForUpdates(self, call: MethodCall) -> None:
        with self.site.world.changing():
            self._cancellations += 1

    def CheckForUpdates(self, call: MethodCall, version: str | None) -> Any:
        self._refuse_truncated(version)
        return self._wait(call, version, 0, 0)

    def WaitForUpdates(self, call: MethodCall, version: str | None) -> Any:
        self._refuse_truncated(version)
        return self._wait(call, version, math.inf, 0)

    def WaitForUpdatesEx(self, call: MethodCall, version: str | None, options: Any) -> Any:
        seconds = options.maxWaitSeconds if options else None
        limit = options.maxObjectUpdates if options else None
        if seconds is not None and seconds < 0:
            raise invalid_argument("options.maxWaitSeconds")
        if limit is not None and limit < 1:
            raise invalid_argument("options.maxObjectUpdates")
        policy = self.site.world.knobs.session
        longest = policy.wait_seconds if seconds is None else min(seconds, policy.wait_seconds)
        sizes = [size for size in (limit, policy.updates_per_set) if size]
        return self._wait(call, version, longest, min(sizes) if sizes else 0)

    def _wait(self, call: MethodCall, version: str | None, seconds: float, limit: int) -> Any:
        """Return the next UpdateSet, or None after *seconds*; releases the lock while it waits."""
        world = self.site.world
        due = world.monotonic() + seconds
        cancellations = self._cancellations
        endless = world.knobs.answer.always_truncated
        if version and version not in self._states and not endless:
            raise Fault("vmodl.query.InvalidCollectorVersion", "The version is not valid.")
        while True:
            generation = world.generation
            update_set = self._updates(version or "", limit, call.version)
            if world.knobs.answer.always_truncated:
                return Collector.UpdateSet(version=version or "00000000", truncated=True)
            if update_set is not None:
                return update_set
            while world.generation == generation:
                left = due - world.monotonic()
                if left <= 0:
                    return None
                world.changed.wait(None if math.isinf(left) else left)
            if self._cancellations != cancellations:
                raise Fault("vmodl.fault.RequestCanceled", "The request was canceled.")
            if self._ended or self.site.closing:
                fault = not_authenticated(self.ref)
                if world.knobs.session.ended_as == "missing-set" and not self.site.closing:
                    return unread_updates(self.filters.values(), fault)
                raise fault

    def _updates(self, version: str, limit: int, api: str) -> Any:
        before = self._states.get(version, {})
        after: dict[str, FilterState] = {}
        sets, taken, truncated = [], 0, False
        nested = self.site.world.knobs.session.nested_updates == "always"
        for member in self.filters.values():
            old = before.get(member.moid, {})
            new = member.state(api)
            reached = dict(old)
            updates = []
            is_partial = member.partial or nested
            for moid, update in updates_between(old, new, is_partial, api):
                if limit and taken == limit:
                    truncated = True
                    break
                taken += 1
                updates.append(update)
                if moid in new:
                    reached[moid] = new[moid]
                else:
                    reached.pop(moid)
            after[member.moid] = reached
            if updates:
                sets.append(Collector.FilterUpdate(filter=member.object, objectSet=updates))
        if not sets and (version or not self.filters):
            return None
        if version in self._truncated:
            self._truncated.discard(version)
            del self._states[version]
        name = f"{next(self._versions):08d}"
        self._states[name] = after
        if truncated:
            self._truncated.add(name)
        for old_name in list(self._states)[:-KEPT_VERSIONS]:
            del self._states[old_name]
        return Collector.UpdateSet(version=name, filterSet=sets, truncated=truncated)

    def _refuse_truncated(self, version: str | None) -> None:
        if version in self._truncated:
            raise Fault("vmodl.query.InvalidCollectorVersion", "The version is truncated.")


def _content(reading: Reading) -> Any:
    return Collector.ObjectContent(
        obj=reading.target.object,
        propSet=[_property(path, value) for path, value in reading.values.items()],
        missingSet=missing_set(reading.missing),
    )


def _property(path: str, value: Any) -> Any:
    return vmodl.DynamicProperty(name=path, val=value)
