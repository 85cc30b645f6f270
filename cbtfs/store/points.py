"""The folder of points: manifests, which are the commits, and state files."""

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

_MARK = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What is known of points that were forgotten and whose manifests still stand."""

    manifests: tuple[Manifest, ...]
    is_complete: bool
    """False if one of them cannot be read: whose point it was, nobody knows."""


class PointFolder:
    """points/: `<id>` is a manifest, `<id>.state` its state, `<id>.forgotten` a dead manifest."""

    def __init__(self, path: Path) -> None:
        """DataCorrupt if there is no directory at *path*, or a link to one."""
        self._folder = open_folder(path)

    @property
    def _path(self) -> Path:
        return self._folder.at

    def path(self, point: PointId) -> Path:
        """Where the manifest is, for messages and for the curious."""
        return self._folder.path / point

    def ids(self) -> set[PointId]:
        """The points that are committed and not forgotten."""
        return {PointId(name) for name in os.listdir(self._path) if is_id(name)}

    def forgotten_ids(self) -> set[PointId]:
        stems = (n.removesuffix(FORGOTTEN_SUFFIX) for n in os.listdir(self._path) if "." in n)
        return {
            PointId(stem)
            for stem in stems
            if is_id(stem) and (self._path / (stem + FORGOTTEN_SUFFIX)).exists()
        }

    def marks(self) -> dict[PointId, bytes]:
        """For each state file what changes when it is replaced."""
        found = {}
        with os.scandir(self._path) as entries:
            for entry in entries:
                stem = entry.name.removesuffix(STATE_SUFFIX)
                if stem != entry.name and is_id(stem):
                    facts = entry.stat(follow_symlinks=False)
                    found[PointId(stem)] = _mark(facts)
        return found

    def load_manifest(self, point: PointId) -> bytes:
        """The manifest's file; PointNotFound if there is none, DataCorrupt if it is damaged."""
        return self._load_checked(self._path / point, point)[0]

    def read_manifest(self, point: PointId) -> Manifest:
        """What the manifest's file says; raises what load_manifest() raises."""
        return self._load_checked(self._path / point, point)[1]

    def load_forgotten(self, point: PointId) -> bytes:
        """The manifest's file of a point that was forgotten."""
        return self._load_checked(self._path / (point + FORGOTTEN_SUFFIX), point)[0]

    def read_forgotten(self, point: PointId) -> Manifest:
        """What it says."""
        return self._load_checked(self._path / (point + FORGOTTEN_SUFFIX), point)[1]

    def forgotten(self) -> Forgotten:
        """All that the folder knows of forgotten points; it takes a look at every name there."""
        found, is_complete = [], True
        for point in self.forgotten_ids():
            try:
                found.append(self.read_forgotten(point))
            except PointNotFound:
                continue
            except DataCorrupt:
                is_complete = False
        return Forgotten(tuple(found), is_complete)

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
        """The point's state and the mark of its file."""
        try:
            fd = open_regular(self._path / (point + STATE_SUFFIX))
        except (OSError, DataCorrupt):
            return unknown_state(point), b""
        try:
            facts = os.fstat(fd)
            state = decode_state(os.pread(fd, MAX_BYTES, 0), point)
            return state, _mark(facts)
        except ValueError:
            return unknown_state(point), _mark(facts)
        finally:
            os.close(fd)

    def put_state(self, state: PointState) -> None:
        """Let *state* be the point's; a crash leaves the one before or this one."""
        replace(self._path / (state.point + STATE_SUFFIX), encode_state(state))

    def commit(self, manifest: Manifest, state: PointState) -> None:
        """Put the manifest under its name: from here on the point exists.

        The state goes first, as a point without one is taken for suspect.
        """
        self.put_state(state)
        put_if_absent(self._path / manifest.point, encode_manifest(manifest))

    def forget(self, points: Iterable[PointId]) -> None:
        """Let the points be forgotten: each is in an instant or not at all, and that lasts.

        PointNotFound if one is gone already. Leases of them hold on.
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
        """Write the manifest of a missing point as that of a forgotten one."""
        put_if_absent(self._path / (point + FORGOTTEN_SUFFIX), manifest)

    def put_back(self, point: PointId, manifest: bytes, state: bytes) -> None:
        """Write the manifest of a missing point, and its state, which goes first, if it is gone."""
        with suppress(FileExistsError):
            put_if_absent(self._path / (point + STATE_SUFFIX), state)
        put_if_absent(self._path / point, manifest)

    @contextmanager
    def claimed(self) -> Iterator[set[PointId]]:
        """The forgotten points that nobody leases; nobody can until the end of the block.

        Only for the one writer. One that cannot be locked counts as leased.
        """
        with ExitStack() as locks:
            found = set()
            for point in sorted(self.forgotten_ids()):
                try:
                    fd = open_regular(self._path / (point + FORGOTTEN_SUFFIX))
                    locks.callback(os.close, fd)
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except (OSError, CbtfsError):
                    continue
                found.add(point)
            yield found

    def remove_forgotten(self, point: PointId) -> None:
        """Remove what is left of a forgotten point: manifest and state."""
        (self._path / (point + FORGOTTEN_SUFFIX)).unlink(missing_ok=True)
        if not (self._path / point).exists():
            (self._path / (point + STATE_SUFFIX)).unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove what a writer that died was writing. Only for the one writer."""
        for name in os.listdir(self._path):
            if name.endswith(ASIDE_SUFFIX):
                remove(self._path / name)

    def count_aside(self) -> int:
        """How many files a writer left half written; one that is at work may have some, too."""
        return sum(name.endswith(ASIDE_SUFFIX) for name in os.listdir(self._path))

    @contextmanager
    def leased(self, point: PointId, *, is_open: bool = False) -> Iterator[None]:
        """Keep what the point needs from being pruned, until the end of the block or process.

        PointNotFound if it is forgotten by now; *is_open* leases that too, for one of several
        processes that have the point open, and so leased, between them.
        """
        path = self._path / point
        if not path.exists():
            self._folder.reopen()  # A copy of the repository may have been put in its place.
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
                there = os.stat(path, follow_symlinks=False)
            except FileNotFoundError as exc:
                raise PointNotFound(f"point {point} is gone") from exc
            if there.st_ino != os.fstat(fd).st_ino:
                raise PointNotFound(f"point {point} is gone")
            yield
        finally:
            os.close(fd)


def _mark(facts: os.stat_result) -> bytes:
    return _MARK.pack(facts.st_ino, facts.st_mtime_ns & (1 << 64) - 1, facts.st_size)
