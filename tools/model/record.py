"""The oracle: what users were told, kept outside of the store, and the checks against it."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from tools.model.forest import Forest
from tools.model.store import VERDICT, Entry, Kind, Manifest, Prefix, Store, Verdict


class Loss(Exception):
    """Raised when a promise to a user is broken. The text names it."""


@dataclass(slots=True)
class OpenReader:
    """A reader that believes that its hold is valid."""

    root: int
    is_valid: Callable[[], bool]


@dataclass(slots=True)
class Record:
    """Acknowledgements to users, and counts for the report."""

    roots: dict[int, int] = field(default_factory=dict)
    """Root of each acknowledged commit."""
    forgets: dict[int, int] = field(default_factory=dict)
    """Highest number of an entry by which a user asked to forget a commit, sent or not."""
    restores: dict[int, int] = field(default_factory=dict)
    """Number of the newest acknowledged entry that restores a commit."""
    pins: dict[int, int] = field(default_factory=dict)
    """Root of the point of each acknowledged pin."""
    readers: dict[int, OpenReader] = field(default_factory=dict)
    reads: int = 0
    failed_reads: int = 0
    version: int = 0
    """Number of promises to users."""

    def committed(self, commit: int, root: int) -> None:
        self.roots[commit] = root
        self.version += 1

    def forget_sent(self, commit: int, number: int) -> None:
        self.forgets[commit] = max(number, self.forgets.get(commit, 0))

    def restored(self, commit: int, number: int) -> None:
        self.restores[commit] = max(number, self.restores.get(commit, 0))
        self.version += 1

    def pinned(self, pin: int, root: int) -> None:
        self.pins[pin] = root
        self.version += 1

    def opened(self, hold: int, reader: OpenReader) -> None:
        self.readers[hold] = reader
        self.version += 1

    def renewed(self) -> None:
        """Note that a reader counts on its hold for longer."""
        self.version += 1

    def fingerprint(self) -> Hashable:
        """Return a value that is equal for equal promises."""
        parts = self.roots.items(), self.forgets.items(), self.restores.items(), self.pins.items()
        return tuple(frozenset(part) for part in parts)

    def expected(self) -> dict[int, int]:
        """Return commits that were acknowledged and that no user has forgotten since."""
        return {
            commit: root
            for commit, root in self.roots.items()
            if self.forgets.get(commit, 0) <= self.restores.get(commit, 0)
        }

    def read(self, wanted: int, read: int | None) -> None:
        """Count a read, which returned the object *read* or failed."""
        self.reads += 1
        if read is None:
            self.failed_reads += 1
        elif read != wanted:
            raise Loss(f"a reader got object {read} as object {wanted}")


class Checker:
    """Compares the store with the record after each change."""

    def __init__(self, store: Store, forest: Forest, record: Record) -> None:
        self._store = store
        self._forest = forest
        self._record = record
        self._checked = (-1, -1)

    def check(self) -> None:
        """Raise Loss unless every promise holds at this moment.

        Time alone breaks no promise, so nothing is compared unless something changed.
        """
        versions = self._store.version, self._record.version
        if versions == self._checked:
            return
        self._checked = versions
        listed = self._listed()
        for commit, root in self._record.expected().items():
            if listed.get(commit) != root:
                raise Loss(f"the acknowledged point {commit} is not listed")
        for commit, root in listed.items():
            self._require(root, f"the point {commit}")
        for pin, root in self._record.pins.items():
            self._require(root, f"the point of pin {pin}")
        for hold, reader in self._record.readers.items():
            if reader.is_valid():
                self._require(reader.root, f"the point of the valid hold {hold}")

    def _require(self, root: int, what: str) -> None:
        copies = self._store.copies
        for number in self._forest.closure(root):
            if copies[number] <= 0:
                raise Loss(f"object {number} of {what} is gone")

    def _listed(self) -> dict[int, int]:
        """Return the root of each point that a program with all rules lists."""
        removed: set[int] = set()
        for name, value in self._store.all(Prefix.PRUNES).items():
            if isinstance(value, Verdict) and isinstance(name, tuple) and name[1] == VERDICT:
                removed |= value.points
        top: dict[int, tuple[int, Kind]] = {}
        for name, value in self._store.all(Prefix.FORGOTTEN).items():
            if isinstance(name, tuple) and isinstance(value, Entry):
                commit, number = name
                known, kind = top.get(commit, (0, Kind.RESTORED))
                if Kind.FINAL in (kind, value.kind):
                    top[commit] = max(known, number), Kind.FINAL
                elif known < number:
                    top[commit] = number, value.kind
        return {
            name: value.root
            for name, value in self._store.all(Prefix.POINTS).items()
            if isinstance(value, Manifest)
            and isinstance(name, int)
            and name not in removed
            and (name not in top or top[name][1] is Kind.RESTORED)
        }
