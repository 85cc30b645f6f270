"""EventManager: queries of the event log.

A revert logs an EventEx com.vmware.vc.vm.VmStateRevertedToSnapshot.
"""

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
from tools.vsim.api.event_log import LoggedEvent
from tools.vsim.fault import MoRef
from tools.vsim.soap.vmodl import managed_object, vim, vmodl

MAX_EVENTS = 1000  # number of events that QueryEvents returns at most


class EventManager(ManagedObject):
    kind = vim.event.EventManager

    def properties(self) -> Properties:
        return {
            "latestEvent": lambda: next(
                (_render(event) for event in reversed(list(self.site.events))), None
            ),
            "maxCollector": lambda: 32,
        }

    def QueryEvents(self, call: MethodCall, filter_spec: Any, eventViewSpec: Any) -> list[Any]:
        matches = [_render(event) for event in self.site.events if _matches(event, filter_spec)]
        return matches[-(filter_spec.maxCount or MAX_EVENTS) :]

    def CreateCollectorForEvents(self, call: MethodCall, filter_spec: Any) -> Any:
        return EventHistoryCollector(self.site, call.caller, filter_spec).object


class EventHistoryCollector(SessionObject):
    kind = vim.event.EventHistoryCollector

    def __init__(self, site: Site, session: ClientSession, filter_spec: Any) -> None:
        super().__init__(site, f"session[{session.key}]{uuid4()}")
        self._session = session
        self._filter_spec = filter_spec
        self._position = 0
        session.objects[self.moid] = self

    def properties(self) -> Properties:
        return {
            "latestPage": lambda: [_render(event) for event in reversed(self._events())],
            "filter": lambda: self._filter_spec,
        }

    def ReadNextEvents(self, call: MethodCall, maxCount: int) -> list[Any]:
        page = self._events()[self._position : self._position + maxCount]
        self._position += len(page)
        return [_render(event) for event in page]

    def RewindCollector(self, call: MethodCall) -> None:
        self._position = 0

    def DestroyCollector(self, call: MethodCall) -> None:
        self._session.objects.pop(self.moid, None)

    def _events(self) -> list[LoggedEvent]:
        return [event for event in self.site.events if _matches(event, self._filter_spec)]


def _matches(event: LoggedEvent, filter_spec: Any) -> bool:
    if filter_spec.eventTypeId and event.type_id not in filter_spec.eventTypeId:
        return False
    if filter_spec.time and filter_spec.time.beginTime and event.time < filter_spec.time.beginTime:
        return False
    if filter_spec.time and filter_spec.time.endTime and event.time > filter_spec.time.endTime:
        return False
    if filter_spec.type and not any(
        issubclass(vim.event.EventEx, kind) for kind in filter_spec.type
    ):
        return False
    entity = filter_spec.entity.entity if filter_spec.entity else None
    return not isinstance(entity, vim.VirtualMachine) or entity._moId == event.vm


def _render(event: LoggedEvent) -> Any:
    return vim.event.EventEx(
        key=event.key,
        chainId=event.key,
        createdTime=event.time,
        userName=event.user,
        vm=vim.event.VmEventArgument(
            name=event.vm_name, vm=managed_object(MoRef("vim.VirtualMachine", event.vm))
        ),
        fullFormattedMessage=event.message,
        eventTypeId=event.type_id,
        severity="info",
        message=event.message,
        objectId=event.vm,
        objectType=vim.VirtualMachine,
        objectName=event.vm_name,
        arguments=[vmodl.KeyAnyValue(key=key, value=value) for key, value in event.arguments],
    )
