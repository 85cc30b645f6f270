"""ViewManager, container views and list views."""

from typing import Any
from uuid import uuid4

from tools.vsim.api.base import (
    ClientSession,
    ManagedObject,
    MethodCall,
    Properties,
    SessionObject,
    Site,
)
from tools.vsim.api.search import descendants
from tools.vsim.soap.vmodl import vim


class ObjectView(SessionObject):
    """A set of objects that belongs to a session."""

    def __init__(self, site: Site, session: ClientSession) -> None:
        super().__init__(site, f"session[{session.key}]{uuid4()}")
        self._session = session
        session.objects[self.moid] = self

    def shown(self) -> list[Any]:
        """Return references to the objects in the view."""
        return []

    def properties(self) -> Properties:
        return {"view": self.shown}

    def DestroyView(self, call: MethodCall) -> None:
        self._session.objects.pop(self.moid, None)


class ContainerView(ObjectView):
    kind = vim.view.ContainerView

    def __init__(
        self,
        site: Site,
        session: ClientSession,
        container: ManagedObject,
        kinds: list[Any],
        recursive: bool,
    ) -> None:
        super().__init__(site, session)
        self._container = container
        self._kinds = tuple(kinds)
        self._recursive = recursive

    def shown(self) -> list[Any]:
        entities = descendants(self._container) if self._recursive else self._container.children()
        return [
            entity.object
            for entity in entities
            if not self._kinds or any(issubclass(entity.kind, kind) for kind in self._kinds)
        ]

    def properties(self) -> Properties:
        return {
            "view": self.shown,
            "container": lambda: self._container.object,
            "type": lambda: list(self._kinds),
            "recursive": lambda: self._recursive,
        }


class ListView(ObjectView):
    kind = vim.view.ListView

    def __init__(self, site: Site, session: ClientSession, objects: list[Any]) -> None:
        super().__init__(site, session)
        self._objects = list(objects)

    def shown(self) -> list[Any]:
        return self._objects

    def ModifyListView(
        self, call: MethodCall, add: list[Any] | None, remove: list[Any] | None
    ) -> list[Any]:
        with self.site.world.changing():
            removed = list(remove or ())
            kept = [member for member in self._objects if member not in removed]
            self._objects = kept + [member for member in add or () if member not in kept]
        return [member for member in removed if member not in self._objects]


class ViewManager(ManagedObject):
    kind = vim.view.ViewManager

    def properties(self) -> Properties:
        return {"viewList": list}

    def CreateContainerView(
        self,
        call: MethodCall,
        container: Any,
        kinds: list[Any] | None,
        recursive: bool,
    ) -> Any:
        top = self.site.require(container._moId, call.session)
        return ContainerView(self.site, call.caller, top, kinds or [], recursive).object

    def CreateListView(self, call: MethodCall, obj: list[Any] | None) -> Any:
        return ListView(self.site, call.caller, obj or []).object
