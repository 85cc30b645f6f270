"""The points of a repository: manifests, which are the commits, and state files."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cbtfs.core.ids import PackId, PointId, is_id
from cbtfs.core.manifest import (
    Manifest,
    PointState,
    decode_manifest,
    decode_state,
    encode_manifest,
    encode_state,
    unknown_state,
)
from cbtfs.core.sealed import MAX_BYTES
from cbtfs.core.shared import RunId
from cbtfs.errors import DataCorrupt, PointNotFound
from cbtfs.shortage import refuse_shortage
from cbtfs.store.backend.base import FileBackend

STATE_SUFFIX: Final = ".state"
FORGOTTEN_SUFFIX: Final = ".forgotten"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Forgotten points whose manifests still exist."""

    manifests: tuple[Manifest, ...]
    is_complete: bool
    """False if a manifest cannot be read, so that its VM is unknown."""


class Points(Protocol):
    """The points of a repository."""

    @property
    def entry_seconds(self) -> float:
        """Time until a committed point is surely in the catalog."""

    def close(self) -> None:
        """Close the backends."""

    def path(self, point: PointId) -> Path:
        """Return the path of a manifest, for messages."""

    def trust(self, points: Iterable[PointId], runs: Mapping[RunId, PointId]) -> None:
        """Use what a catalog knows to list points faster."""

    def other_runs(self) -> Mapping[RunId, PointId]:
        """Return the known runs whose point has another id, for the catalog."""

    def snapshot(self) -> AbstractContextManager[object]:
        """Answer questions about ids from one listing, if that is possible."""

    def ids(self) -> set[PointId]:
        """Return the points that are committed and not forgotten."""

    def forgotten_ids(self) -> set[PointId]:
        """Return the points that are forgotten, maybe also removed ones."""

    def removed_packs(self) -> Collection[PackId]:
        """Return packs that do not count as present, even if they exist."""

    def state_stamps(self) -> dict[PointId, bytes]:
        """Return the stamp of each state, which changes with the state."""

    def load_manifest(self, point: PointId) -> bytes:
        """Return the bytes of a manifest.

        Raises:
            PointNotFound: the manifest does not exist.
            DataCorrupt: it is damaged.
        """

    def read_manifest(self, point: PointId) -> Manifest:
        """Return a decoded manifest; raises the errors of load_manifest()."""

    def load_forgotten(self, point: PointId) -> bytes:
        """Return the bytes of the manifest of a forgotten point."""

    def read_forgotten(self, point: PointId) -> Manifest:
        """Return the decoded manifest of a forgotten point."""

    def forgotten(self) -> Forgotten:
        """Return all forgotten points whose manifests exist."""

    def load_state(self, point: PointId) -> tuple[PointState, bytes]:
        """Return the state of a point and its stamp; unknown_state() if unreadable."""

    def see_state(self, state: PointState) -> None:
        """Take *state*, from the catalog, for the one that the caller changes."""

    def put_state(self, state: PointState) -> None:
        """Replace the state of a point; a crash leaves the old or the new one."""

    def forget(self, points: Iterable[PointId]) -> None:
        """Forget points; leases on them stay.

        Raises:
            PointNotFound: a point does not exist; the points before it are forgotten.
        """

    def unforget(self, points: Iterable[PointId]) -> None:
        """Bring forgotten points back.

        Raises:
            PointNotFound: a forgotten manifest does not exist.
        """

    def put_forgotten(self, point: PointId, manifest: bytes) -> None:
        """Write the manifest of a missing point as that of a forgotten one."""

    def leased(self, point: PointId, *, is_open: bool = False) -> AbstractContextManager[None]:
        """Hold a lease, so that no prune removes objects of the point, until the end of the block.

        *is_open* admits a forgotten point, for a process of a group that already holds a lease.

        Raises:
            PointNotFound: the point does not exist or is forgotten.
        """

    def remove_leftovers(self) -> None:
        """Remove temporary files of a stale writer, if there is only one writer."""

    def count_aside(self) -> int:
        """Return the number of temporary files, including those of an active writer."""


class PointFolder:
    """`<id>` is a manifest, `<id>.state` its state, `<id>.forgotten` a forgotten one."""

    entry_seconds = 0.0

    def __init__(self, backend: FileBackend) -> None:
        """Own *backend*."""
        self._backend = backend

    def close(self) -> None:
        """Close the backend."""
        self._backend.close()

    def path(self, point: PointId) -> Path:
        """Return the path of a manifest, for messages."""
        return self._backend.path(point)

    def ids(self) -> set[PointId]:
        """Return the points that are committed and not forgotten."""
        return {PointId(name) for name in self._backend.names() if is_id(name)}

    def trust(self, points: Iterable[PointId], runs: Mapping[RunId, PointId]) -> None:
        """Do nothing: names are points."""

    def other_runs(self) -> Mapping[RunId, PointId]:
        """Return nothing: names are points."""
        return {}

    def snapshot(self) -> AbstractContextManager[object]:
        """Do nothing: there is one writer."""
        return nullcontext()

    def removed_packs(self) -> Collection[PackId]:
        """Return nothing: packs are removed at once."""
        return ()

    def see_state(self, state: PointState) -> None:
        """Do nothing: there is one writer."""

    def forgotten_ids(self) -> set[PointId]:
        names = (name for name in self._backend.names() if name.endswith(FORGOTTEN_SUFFIX))
        stems = (name.removesuffix(FORGOTTEN_SUFFIX) for name in names)
        return {PointId(s) for s in stems if is_id(s) and self._is_object(s + FORGOTTEN_SUFFIX)}

    def state_stamps(self) -> dict[PointId, bytes]:
        """Return the stamp of each state file, which changes with the file."""
        stamps = {}
        for name in self._backend.names():
            stem = name.removesuffix(STATE_SUFFIX)
            if stem != name and is_id(stem):
                with suppress(FileNotFoundError, DataCorrupt):
                    stamps[PointId(stem)] = self._backend.head(name).stamp
        return stamps

    def load_manifest(self, point: PointId) -> bytes:
        """Return the bytes of a manifest.

        Raises:
            PointNotFound: the manifest does not exist.
            DataCorrupt: it is damaged.
        """
        return self._load_checked(point, point)[0]

    def read_manifest(self, point: PointId) -> Manifest:
        """Return a decoded manifest; raises the errors of load_manifest()."""
        return self._load_checked(point, point)[1]

    def load_forgotten(self, point: PointId) -> bytes:
        """Return the bytes of the manifest of a forgotten point."""
        return self._load_checked(point + FORGOTTEN_SUFFIX, point)[0]

    def read_forgotten(self, point: PointId) -> Manifest:
        """Return the decoded manifest of a forgotten point."""
        return self._load_checked(point + FORGOTTEN_SUFFIX, point)[1]

    def forgotten(self) -> Forgotten:
        """Return all forgotten points; lists the whole directory."""
        manifests, is_complete = [], True
        for point in self.forgotten_ids():
            try:
                manifests.append(self.read_forgotten(point))
            except PointNotFound:
                continue
            except DataCorrupt:
                is_complete = False
        return Forgotten(tuple(manifests), is_complete)

    def _load_checked(self, name: str, point: PointId) -> tuple[bytes, Manifest]:
        try:
            data = self._backend.get(name, 0, MAX_BYTES + 1).data
            manifest = decode_manifest(data)
            if manifest.point != point:
                raise ValueError("it is the manifest of another point")
        except FileNotFoundError as exc:
            raise PointNotFound(f"point {point} is gone") from exc
        except OSError as exc:
            refuse_shortage(exc, f"cannot read manifest {name}")
            raise DataCorrupt(f"cannot read manifest {name}: {exc.strerror}") from exc
        except ValueError as exc:
            raise DataCorrupt(f"manifest {name} is damaged: {exc}") from exc
        return data, manifest

    def load_state(self, point: PointId) -> tuple[PointState, bytes]:
        """Return the state of a point and the stamp of its file; unknown_state() if unreadable."""
        try:
            content = self._backend.get(point + STATE_SUFFIX, 0, MAX_BYTES)
        except ValueError:  # It cannot be decrypted.
            return unknown_state(point), self._backend.head(point + STATE_SUFFIX).stamp
        except (OSError, DataCorrupt):
            return unknown_state(point), b""
        try:
            return decode_state(content.data, point), content.head.stamp
        except ValueError:
            return unknown_state(point), content.head.stamp

    def put_state(self, state: PointState) -> None:
        """Replace the state of a point; a crash leaves the old or the new one."""
        self._backend.replace(state.point + STATE_SUFFIX, encode_state(state))

    def commit(self, manifest: Manifest, state: PointState) -> None:
        """Write the manifest under its name: from here on the point exists.

        The state is written first, because a point without a state counts as suspect.
        """
        self.put(manifest.point, encode_manifest(manifest), state)

    def put(self, point: PointId, manifest: bytes, state: PointState) -> None:
        """Commit a point whose manifest is already encoded."""
        self.put_state(state)
        self._backend.create(point, manifest)

    def forget(self, points: Iterable[PointId]) -> None:
        """Rename the manifests of points to forgotten ones, each atomically, and flush.

        Leases on the points stay.

        Raises:
            PointNotFound: a point does not exist; the points before it are forgotten.
        """
        for point in points:
            try:
                self._backend.rename(point, point + FORGOTTEN_SUFFIX)
            except FileNotFoundError as exc:
                raise PointNotFound(f"point {point} is gone") from exc
        self._backend.flush()

    def unforget(self, points: Iterable[PointId]) -> None:
        """Give forgotten points their manifests' names back, and flush the folder.

        Raises:
            PointNotFound: a forgotten manifest does not exist.
        """
        for point in points:
            try:
                self._backend.rename(point + FORGOTTEN_SUFFIX, point)
            except FileNotFoundError as exc:
                raise PointNotFound(f"point {point} is gone") from exc
        self._backend.flush()

    def put_forgotten(self, point: PointId, manifest: bytes) -> None:
        """Write the manifest of a missing point under the name of a forgotten one."""
        self._backend.create(point + FORGOTTEN_SUFFIX, manifest)

    def put_back(self, point: PointId, manifest: bytes, state: bytes) -> None:
        """Write the manifest of a missing point; before it the state file, if that is gone."""
        with suppress(FileExistsError):
            self._backend.create(point + STATE_SUFFIX, state)
        self._backend.create(point, manifest)

    @contextmanager
    def claimed(self) -> Iterator[set[PointId]]:
        """Lock the forgotten points that have no lease, until the end of the block.

        Only for the writer. A point that cannot be locked counts as leased.
        """
        with ExitStack() as locks:
            claimed = set()
            for point in sorted(self.forgotten_ids()):
                if locks.enter_context(self._backend.claim(point + FORGOTTEN_SUFFIX)):
                    claimed.add(point)
            yield claimed

    def remove_forgotten(self, point: PointId) -> None:
        """Remove the manifest and the state file of a forgotten point."""
        self._backend.delete(point + FORGOTTEN_SUFFIX)
        if not self._is_object(point):
            self._backend.delete(point + STATE_SUFFIX)

    def _is_object(self, name: str) -> bool:
        try:
            self._backend.head(name)
        except (FileNotFoundError, DataCorrupt):
            return False
        return True

    def remove_leftovers(self) -> None:
        """Remove temporary files of a stale writer. Only for the writer."""
        self._backend.discard_unfinished()

    def count_aside(self) -> int:
        """Return the number of temporary files, including those of an active writer."""
        return self._backend.unfinished()

    @contextmanager
    def leased(self, point: PointId, *, is_open: bool = False) -> Iterator[None]:
        """Hold a lease, so that no prune removes objects of the point, until the end of the block.

        *is_open* admits a forgotten point, for a process of a group that already holds a lease.

        Raises:
            PointNotFound: the point does not exist or is forgotten.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._backend.lease(point))
            except FileNotFoundError as exc:
                if not is_open:
                    raise PointNotFound(f"point {point} is gone") from exc
                try:
                    stack.enter_context(self._backend.lease(point + FORGOTTEN_SUFFIX))
                except FileNotFoundError:
                    raise PointNotFound(f"point {point} is gone") from exc
            yield
