"""PropertyCollector: retrieve with paging, filters, and updates with versions."""

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

KEPT_VERSIONS = 8  # a client may ask again with a version it already used


class Filter(SessionObject):
    kind = Collector.Filter

    def __init__(
        self, owner: "PropertyCollector", session: ClientSession, spec: Any, partial: bool
    ) -> None:
        super().__init__(owner.site, f"session[{session.key}]{uuid4()}")
        self.owner = owner
        self.spec = spec
        self.partial = partial
        self._session = session

    def properties(self) -> Properties:
        return {"spec": lambda: self.spec, "partialUpdates": lambda: self.partial}

    def state(self, version: str) -> FilterState:
        """What the filter covers now."""
        readings = read_selected(self.site, self._session, self.spec, without_missing=True)
        return {reading.target.moid: ObjectState.of(reading, version) for reading in readings}

    def DestroyPropertyFilter(self, call: MethodCall) -> None:
        with self.site.world.changing():
            self._session.objects.pop(self.moid, None)
            self.owner.filters.pop(self.moid, None)


class PropertyCollector(SessionObject):
    """One for each session, more on request."""

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
        return {"filter": lambda: [each.object for each in self.filters.values()]}

    # retrieval

    def RetrieveProperties(self, call: MethodCall, specSet: list[Any]) -> list[Any]:
        return self._contents(specSet)

    def RetrievePropertiesEx(self, call: MethodCall, specSet: list[Any], options: Any) -> Any:
        most = options.maxObjects if options else None
        if most is not None and most < 1:
            raise invalid_argument("options.maxObjects")
        policy = self.site.world.knobs.session.objects_per_page
        sizes = [size for size in (most, policy) if size]
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
        read_selected(self.site, self._session, spec)  # refuses what is wrong with it
        made = Filter(self, self._session, spec, partialUpdates)
        with self.site.world.changing():
            self._session.objects[made.moid] = made
            self.filters[made.moid] = made
        return made.object

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
        most = options.maxObjectUpdates if options else None
        if seconds is not None and seconds < 0:
            raise invalid_argument("options.maxWaitSeconds")
        if most is not None and most < 1:
            raise invalid_argument("options.maxObjectUpdates")
        policy = self.site.world.knobs.session
        longest = policy.wait_seconds if seconds is None else min(seconds, policy.wait_seconds)
        sizes = [size for size in (most, policy.updates_per_set) if size]
        return self._wait(call, version, longest, min(sizes) if sizes else 0)

    def _wait(self, call: MethodCall, version: str | None, seconds: float, most: int) -> Any:
        """The next UpdateSet; None when *seconds* are over. Frees the lock while it waits."""
        world = self.site.world
        due = world.monotonic() + seconds
        cancellations = self._cancellations
        endless = world.knobs.answer.always_truncated
        if version and version not in self._states and not endless:
            raise Fault("vmodl.query.InvalidCollectorVersion", "The version is not valid.")
        while True:
            generation = world.generation
            found = self._updates(version or "", most, call.version)
            if world.knobs.answer.always_truncated:
                return Collector.UpdateSet(version=version or "00000000", truncated=True)
            if found is not None:
                return found
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

    def _updates(self, version: str, most: int, api: str) -> Any:
        before = self._states.get(version, {})
        after: dict[str, FilterState] = {}
        sets, taken, truncated = [], 0, False
        for each in self.filters.values():
            old = before.get(each.moid, {})
            new = each.state(api)
            reached = dict(old)
            updates = []
            for moid, update in updates_between(old, new, each.partial, api):
                if most and taken == most:
                    truncated = True
                    break
                taken += 1
                updates.append(update)
                if moid in new:
                    reached[moid] = new[moid]
                else:
                    reached.pop(moid)
            after[each.moid] = reached
            if updates:
                sets.append(Collector.FilterUpdate(filter=each.object, objectSet=updates))
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
