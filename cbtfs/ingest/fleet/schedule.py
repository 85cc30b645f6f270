"""Which VM goes next: as many at once as limits allow, none held back by another's full host.

Arithmetic only: who runs what, and in which threads, is the caller's business. It locks, too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

PER_HOST: Final = 24
"""Disks. Each takes up to two connections to the host's NFC service; guidance is 50 connections a
host (VDDK Programming Guide, NBD). Its memory is guarded by source.transport.nfc."""
PER_VCENTER: Final = 52
"""NFC connections, one or two for each disk: a limit of vCenter (VDDK Programming Guide, NBD)."""
PER_DATASTORE: Final = 4
"""VMs with a snapshot: each fills a delta disk with what its guest writes, on storage that all
of them share."""


class Resource(NamedTuple):
    """What VMs have to share: a host, a datastore or a vCenter."""

    kind: str
    """`host`, `datastore` or `vcenter`."""
    id: str


Needs = Mapping[Resource, int]
"""How much of what a VM takes while it is captured."""


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """How much may be taken at once; None for no limit."""

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
    """The order of *count* VMs, by their numbers.

    A VM that is taken is first placed: what it needs is looked up, as it may have moved. place()
    says whether it can go; else it waits, and others go. Those that wait go first, in the order
    of their numbers, whenever something ends. A VM that needs more than a limit goes when nobody
    else takes anything of that resource, so each has its turn.
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
        """Those at work, in the order in which they were taken."""
        return list(self._taken)

    def take(self) -> int | None:
        """The first of those that wait and, as far as is known, fit; None if there is none."""
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
        """Whether a VM that was taken and needs that can go; if not, it waits again."""
        self._release(number)
        self._known[number] = needs
        if self._fits(needs):
            self._hold(number, needs)
            return True
        self._waiting = sorted([*self._waiting, number], key=self._turns.__getitem__)
        return False

    def end(self, number: int) -> None:
        """A VM that was taken is done with."""
        self._release(number)

    def again(self, number: int) -> None:
        """A VM that was taken is to go once more, after all others."""
        self._release(number)
        self._turns[number] = 1 + max(self._turns.values())
        self._waiting.append(number)

    def drop(self) -> None:
        """Nobody who waits shall go any more."""
        self._waiting.clear()

    def _fits(self, needs: Needs) -> bool:
        return all(self._has_room(resource, amount) for resource, amount in needs.items())

    def _has_room(self, resource: Resource, amount: int) -> bool:
        limit, in_use = self._limits.of(resource), self._in_use[resource]
        return limit is None or in_use == 0 or in_use + amount <= limit

    def _hold(self, number: int, needs: Needs) -> None:
        self._taken[number] = needs
        self._in_use.update(needs)

    def _release(self, number: int) -> None:
        self._in_use.subtract(self._taken.pop(number))
