"""The directory points/: manifests, which are the commits, and state files."""

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId, is_id
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
from cbtfs.errors import CbtfsError, DataCorrupt, PointNotFound
from cbtfs.shortage import refuse_shortage
from cbtfs.store.files import load_file, open_regular, put_if_absent, remove, replace, sync_folder
from cbtfs.store.folder import open_folder

STATE_SUFFIX: Final = ".state"
FORGOTTEN_SUFFIX: Final = ".forgotten"
ASIDE_SUFFIX: Final = ".tmp"

_STAMP = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Forgotten points whose manifests still exist."""

    manifests: tuple[Manifest, ...]
    is_complete: bool
    """False if a manifest cannot be read, so that its VM is unknown."""


class PointFolder:
    """points/: `<id>` is a manifest, `<id>.state` its state, `<id>.forgotten` a forgotten one."""

    def __init__(self, path: Path) -> None:
        """Open the directory at *path*; DataCorrupt if it is missing or a link."""
        self._folder = open_folder(path)

    def close(self) -> None:
        """Close the directory."""
        self._folder.close()

    @property
    def _path(self) -> Path:
        return self._folder.at

    def path(self, point: PointId) -> Path:
        """Return the path of a manifest, for messages."""
        return self._folder.path / point

    def ids(self) -> set[PointId]:
        """Return the points that are committed and not forgotten."""
        return {PointId(name) for name in os.listdir(self._path) if is_id(name)}

    def forgotten_ids(self) -> set[PointId]:
        stems = (n.removesuffix(FORGOTTEN_SUFFIX) for n in os.listdir(self._path) if "." in n)
        return {
            PointId(stem)
            for stem in stems
            if is_id(stem) and (self._path / (stem + FORGOTTEN_SUFFIX)).exists()
        }

    def state_stamps(self) -> dict[PointId, bytes]:
        """Return the stamp of each state file: inode, time and size, which change with the file."""
        stamps = {}
        with os.scandir(self._path) as entries:
            for entry in entries:
                stem = entry.name.removesuffix(STATE_SUFFIX)
                if stem != entry.name and is_id(stem):
                    facts = entry.stat(follow_symlinks=False)
                    stamps[PointId(stem)] = _stamp(facts)
        return stamps

    def load_manifest(self, point: PointId) -> bytes:
        """Return the bytes of a manifest.

        Raises:
            PointNotFound: the manifest does not exist.
            DataCorrupt: it is damaged.
        """
        return self._load_checked(self._path / point, point)[0]

    def read_manifest(self, point: PointId) -> Manifest:
        """Return a decoded manifest; raises the errors of load_manifest()."""
        return self._load_checked(self._path / point, point)[1]

    def load_forgotten(self, point: PointId) -> bytes:
        """Return the bytes of the manifest of a forgotten point."""
        return self._load_checked(self._path / (point + FORGOTTEN_SUFFIX), point)[0]

    def read_forgotten(self, point: PointId) -> Manifest:
        """Return the decoded manifest of a forgotten point."""
        return self._load_checked(self._path / (point + FORGOTTEN_SUFFIX), point)[1]

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

    def _load_checked(self, path: Path, point: PointId) -> tuple[bytes, Manifest]:
        try:
            data = load_file(path, MAX_BYTES)
            manifest = decode_manifest(data)
            if manifest.point != point:
                raise ValueError("it is the manifest of another point")
        except FileNotFoundError as exc:
            raise PointNotFound(f"point {point} is gone") from exc
        except OSError as exc:
            refuse_shortage(exc, f"cannot read manifest {path.name}")
            raise DataCorrupt(f"cannot read manifest {path.name}: {exc.strerror}") from exc
        except ValueError as exc:
            raise DataCorrupt(f"manifest {path.name} is damaged: {exc}") from exc
        return data, manifest

    def load_state(self, point: PointId) -> tuple[PointState, bytes]:
        """Return the state of a point and the stamp of its file; unknown_state() if unreadable."""
        try:
            fd = open_regular(self._path / (point + STATE_SUFFIX))
        except (OSError, DataCorrupt):
            return unknown_state(point), b""
        try:
            facts = os.fstat(fd)
            state = decode_state(os.pread(fd, MAX_BYTES, 0), point)
            return state, _stamp(facts)
        except ValueError:
            return unknown_state(point), _stamp(facts)
        finally:
            os.close(fd)

    def put_state(self, state: PointState) -> None:
        """Replace the state of a point; a crash leaves the old or the new one."""
        replace(self._path / (state.point + STATE_SUFFIX), encode_state(state))

    def commit(self, manifest: Manifest, state: PointState) -> None:
        """Write the manifest under its name: from here on the point exists.

        The state is written first, because a point without a state counts as suspect.
        """
        self.put_state(state)
        put_if_absent(self._path / manifest.point, encode_manifest(manifest))

    def forget(self, points: Iterable[PointId]) -> None:
        """Rename the manifests of points to forgotten ones, each atomically, and flush.

        Leases on the points stay.

        Raises:
            PointNotFound: a point does not exist; the points before it are forgotten.
        """
        for point in points:
            path = self._path / point
            try:
                os.rename(path, path.with_name(path.name + FORGOTTEN_SUFFIX))
            except FileNotFoundError as exc:
                raise PointNotFound(f"point {point} is gone") from exc
        sync_folder(self._path)

    def unforget(self, points: Iterable[PointId]) -> None:
        """Give forgotten points their manifests' names back, and flush the folder.

        Raises:
            PointNotFound: a forgotten manifest does not exist.
        """
        for point in points:
            path = self._path / point
            try:
                os.rename(path.with_name(path.name + FORGOTTEN_SUFFIX), path)
            except FileNotFoundError as exc:
                raise PointNotFound(f"point {point} is gone") from exc
        sync_folder(self._path)

    def put_forgotten(self, point: PointId, manifest: bytes) -> None:
        """Write the manifest of a missing point under the name of a forgotten one."""
        put_if_absent(self._path / (point + FORGOTTEN_SUFFIX), manifest)

    def put_back(self, point: PointId, manifest: bytes, state: bytes) -> None:
        """Write the manifest of a missing point; before it the state file, if that is gone."""
        with suppress(FileExistsError):
            put_if_absent(self._path / (point + STATE_SUFFIX), state)
        put_if_absent(self._path / point, manifest)

    @contextmanager
    def claimed(self) -> Iterator[set[PointId]]:
        """Lock the forgotten points that have no lease, until the end of the block.

        Only for the writer. A point that cannot be locked counts as leased.
        """
        with ExitStack() as locks:
            claimed = set()
            for point in sorted(self.forgotten_ids()):
                try:
                    fd = open_regular(self._path / (point + FORGOTTEN_SUFFIX))
                    locks.callback(os.close, fd)
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (OSError, CbtfsError):
                    continue
                claimed.add(point)
            yield claimed

    def remove_forgotten(self, point: PointId) -> None:
        """Remove the manifest and the state file of a forgotten point."""
        (self._path / (point + FORGOTTEN_SUFFIX)).unlink(missing_ok=True)
        if not (self._path / point).exists():
            (self._path / (point + STATE_SUFFIX)).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove temporary files of a stale writer. Only for the writer."""
        for name in os.listdir(self._path):
            if name.endswith(ASIDE_SUFFIX):
                remove(self._path / name)

    def count_aside(self) -> int:
        """Return the number of temporary files, including those of an active writer."""
        return sum(name.endswith(ASIDE_SUFFIX) for name in os.listdir(self._path))

    @contextmanager
    def leased(self, point: PointId, *, is_open: bool = False) -> Iterator[None]:
        """Hold a lease, so that no prune removes objects of the point, until the end of the block.

        *is_open* admits a forgotten point, for a process of a group that already holds a lease.

        Raises:
            PointNotFound: the point does not exist or is forgotten.
        """
        path = self._path / point
        if not path.exists():
            self._folder.reopen()  # A copy of the repository may have replaced the directory.
        try:
            fd = open_regular(path)
        except FileNotFoundError as exc:
            path = self._path / (point + FORGOTTEN_SUFFIX)
            if not is_open or not path.exists():
                raise PointNotFound(f"point {point} is gone") from exc
            fd = open_regular(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            try:
                current = os.stat(path, follow_symlinks=False)
            except FileNotFoundError as exc:
                raise PointNotFound(f"point {point} is gone") from exc
            if current.st_ino != os.fstat(fd).st_ino:
                raise PointNotFound(f"point {point} is gone")
            yield
        finally:
            os.close(fd)


def _stamp(facts: os.stat_result) -> bytes:
    return _STAMP.pack(facts.st_ino, facts.st_mtime_ns & (1 << 64) - 1, facts.st_size)
