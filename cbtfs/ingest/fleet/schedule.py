"""Choose the next VM to capture: as many at once as the limits of hosts and datastores allow.

This module only computes. The caller runs the VMs in threads, and locks the schedule.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

PER_HOST: Final = 24
"""Disks per host. Each takes up to two connections to the host's NFC service; VMware recommends at
most 50 (VDDK Programming Guide, NBD). source.transport.nfc_buffers limits the memory."""
PER_VCENTER: Final = 52
"""NFC connections per vCenter, one or two per disk (VDDK Programming Guide, NBD)."""
PER_DATASTORE: Final = 4
"""VMs with a snapshot per datastore: each grows a delta disk on the shared storage."""


class Resource(NamedTuple):
    """A resource that VMs share: a host, a datastore or a vCenter."""

    kind: str
    """`host`, `datastore` or `vcenter`."""
    id: str


Needs = Mapping[Resource, int]
"""Amount of each resource that a VM takes while it is captured."""


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """Maximum amounts that may be taken at once; None: no limit."""

    jobs: int = 1
    per_host: int | None = PER_HOST
    """Disks."""
    per_datastore: int | None = PER_DATASTORE
    """VMs."""
    per_vcenter: int | None = PER_VCENTER
    """NFC connections."""

    def __post_init__(self) -> None:
        for limit in (self.jobs, self.per_host, self.per_datastore, self.per_vcenter):
            if limit is not None and limit < 1:
                raise ValueError(f"not limits: {self}")

    def of(self, resource: Resource) -> int | None:
        by_kind = {"host": self.per_host, "vcenter": self.per_vcenter}
        return by_kind.get(resource.kind, self.per_datastore)


class Schedule:
    """The order in which VMs, numbered from 0 to *count* - 1, are captured.

    The caller takes a VM with take(), looks up its current needs, because it may have moved, and
    passes them to place(). That returns whether the VM can start; otherwise it waits. When a VM
    ends, the waiting ones have precedence, in the order of their numbers. A VM that needs more than
    a limit starts when no other VM takes that resource, so every VM is captured eventually.
    """

    def __init__(self, count: int, limits: FleetLimits) -> None:
        self._limits = limits
        self._waiting = list(range(count))
        self._turns = dict(enumerate(range(count)))
        self._known: dict[int, Needs] = {}
        self._taken: dict[int, Needs] = {}
        self._in_use: Counter[Resource] = Counter()

    @property
    def is_over(self) -> bool:
        return not self._waiting and not self._taken

    @property
    def taken(self) -> Sequence[int]:
        """The VMs in progress, in the order in which they were taken."""
        return list(self._taken)

    def take(self) -> int | None:
        """Take the first waiting VM that fits, as far as its needs are known; None without one."""
        if len(self._taken) == self._limits.jobs:
            return None
        for number in self._waiting:
            needs = self._known.get(number, {})
            if self._fits(needs):
                self._waiting.remove(number)
                self._hold(number, needs)
                return number
        return None

    def place(self, number: int, needs: Needs) -> bool:
        """Return whether a taken VM with these needs can start; if not, it waits again."""
        self._release(number)
        self._known[number] = needs
        if self._fits(needs):
            self._hold(number, needs)
            return True
        self._waiting = sorted([*self._waiting, number], key=self._turns.__getitem__)
        return False

    def end(self, number: int) -> None:
        """Release the resources of a taken VM that has ended."""
        self._release(number)

    def again(self, number: int) -> None:
        """Queue a taken VM for another attempt, after all others."""
        self._release(number)
        self._turns[number] = 1 + max(self._turns.values())
        self._waiting.append(number)

    def drop(self) -> None:
        """Drop all waiting VMs."""
        self._waiting.clear()

    def _fits(self, needs: Needs) -> bool:
        return all(self._is_free(resource, amount) for resource, amount in needs.items())

    def _is_free(self, resource: Resource, amount: int) -> bool:
        limit, in_use = self._limits.of(resource), self._in_use[resource]
        return limit is None or in_use == 0 or in_use + amount <= limit

    def _hold(self, number: int, needs: Needs) -> None:
        self._taken[number] = needs
        self._in_use.update(needs)

    def _release(self, number: int) -> None:
        self._in_use.subtract(self._taken.pop(number))
