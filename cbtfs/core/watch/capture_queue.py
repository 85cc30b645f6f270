"""Which VMs a watch captures next: at most one capture of a VM in an interval."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class CaptureQueue:
    """VMs that wait for a capture, with the events that caused it; times are of one clock."""

    interval: float
    """Minimum number of seconds between the starts of two captures of a VM."""
    _waiting: dict[str, dict[str, None]] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)

    def add(self, vm: str, reason: str) -> None:
        """Request a capture of a VM; several requests become one capture."""
        self._waiting.setdefault(vm, {})[reason] = None

    def drop(self, vm: str) -> None:
        """Withdraw the requests of a VM that is gone."""
        self._waiting.pop(vm, None)

    def take(self, now: float) -> dict[str, list[str]]:
        """Return the VMs to capture now, each with its reasons; they count as started."""
        self._started = {
            vm: started for vm, started in self._started.items() if now - started < self.interval
        }
        due = {vm: list(self._waiting[vm]) for vm in self._waiting if vm not in self._started}
        for vm in due:
            del self._waiting[vm]
            self._started[vm] = now
        return due
