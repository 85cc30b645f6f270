"""The events of the machines, oldest first."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from tools.vsim.model.machine import SimulatedMachine
from tools.vsim.model.snapshot import Snapshot
from tools.vsim.model.world import World

REVERTED = "com.vmware.vc.vm.VmStateRevertedToSnapshot"


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event."""

    key: int
    time: datetime
    type_id: str
    vm: str
    vm_name: str
    user: str
    message: str
    arguments: tuple[tuple[str, str], ...] = ()


class EventLog:
    """All events, oldest first."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._events: list[LoggedEvent] = []

    def __iter__(self) -> Iterator[LoggedEvent]:
        return iter(list(self._events))

    def add(
        self, type_id: str, machine: SimulatedMachine, user: str, message: str, **arguments: str
    ) -> None:
        """Append an event of a machine."""
        with self._world.changing():
            self._events.append(
                LoggedEvent(
                    len(self._events) + 1,
                    self._world.now(),
                    type_id,
                    machine.moid,
                    machine.spec.name,
                    user,
                    message,
                    tuple(arguments.items()),
                )
            )

    def add_revert(self, machine: SimulatedMachine, snapshot: Snapshot, user: str) -> None:
        """Append the EventEx of a revert, unless the knob `snapshot.revert_event` is off."""
        if not self._world.knobs.snapshot.revert_event:
            return
        self.add(
            REVERTED,
            machine,
            user,
            f"The execution state of the virtual machine {machine.spec.name} has been reverted to"
            f" the state of snapshot {snapshot.name}, with ID {snapshot.number}",
            snapshotName=snapshot.name,
            snapshotId=str(snapshot.number),
        )
