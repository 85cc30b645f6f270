"""The requests in flight of each host, which all disks of all VMs share.

A host has 48 MB for the buffers of NFC, and fails a request without a free buffer (VDDK Programming
Guide, "NFC session limits"). 32 requests of 1 MiB leave space for other clients.
"""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

IN_FLIGHT: Final = 32


class HostWindow:
    """The requests to one host. Safe to use from several threads.

    The disks with requests have equal shares, so a disk that comes later need not wait until
    another one is read.
    """

    def __init__(self, most: int = IN_FLIGHT) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._disks: set[DiskWindow] = set()
        """Disks with requests that are in flight or wait."""
        self._held = 0

    def disk(self) -> "DiskWindow":
        """Return the window of one more disk."""
        return DiskWindow(self)

    def acquire(self, disk: "DiskWindow", most: int) -> None:
        """Wait until *disk* may have one more request in flight, but no more than *most*."""
        waiting = _Waiting(disk, most)
        with self._changed:
            self._waiting.append(waiting)
            self._disks.add(disk)
            try:
                self._changed.wait_for(lambda: self._next() is waiting)
                self._held += 1
                disk.held += 1
            finally:
                self._waiting.remove(waiting)
                self._forget_idle(disk)
                self._changed.notify_all()

    def release(self, disk: "DiskWindow") -> None:
        with self._changed:
            self._held -= 1
            disk.held -= 1
            self._forget_idle(disk)
            self._changed.notify_all()

    def _forget_idle(self, disk: "DiskWindow") -> None:
        if not disk.held and all(waiting.disk is not disk for waiting in self._waiting):
            self._disks.discard(disk)

    def _next(self) -> "_Waiting | None":
        """Return the first one in the queue whose disk has less than its share."""
        if self._held >= self._most:
            return None
        share = max(1, self._most // len(self._disks))
        for waiting in self._waiting:
            if waiting.disk.held < min(share, waiting.most):
                return waiting
        return None


class DiskWindow:
    """The requests of one disk."""

    def __init__(self, host: HostWindow) -> None:
        self._host = host
        self.held = 0
        """Number of requests in flight."""

    def acquire(self, most: int = IN_FLIGHT) -> None:
        """Wait for a slot of the host; at most *most* of them belong to this disk."""
        self._host.acquire(self, most)

    def release(self) -> None:
        self._host.release(self)


@dataclass(eq=False, slots=True)
class _Waiting:
    disk: DiskWindow
    most: int


class HostWindows:
    """The windows of all hosts. Safe to use from several threads."""

    def __init__(self, most: int = IN_FLIGHT) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._hosts: dict[str, HostWindow] = {}

    def of(self, host: str) -> HostWindow:
        """Return the window of the host with that address."""
        with self._lock:
            return self._hosts.setdefault(host, HostWindow(self._most))
