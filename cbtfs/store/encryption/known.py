"""The state of encrypted repositories as this client last saw it, so that a roll-back is noticed.

Encryption proves that bytes are those of a writer. It does not prove that they are the newest. So a
client remembers the revision of each file that can be replaced, the newest point of each VM, and
the directories of encrypted repositories. The record is in the client's own state, not in the
repository.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId, VmId
from cbtfs.core.sealed import MAX_BYTES, seal, unseal
from cbtfs.errors import CbtfsError, DataCorrupt
from cbtfs.store.files import load_file, replace

log = logging.getLogger(__name__)

_STATE_VARIABLE: Final = "XDG_STATE_HOME"
Heads = Mapping[VmId, tuple[int, PointId]]
"""Order number and id of the newest point of each VM."""

_lock = threading.RLock()
_known: dict[str, "Known"] = {}


class Known:
    """What this client has seen of one repository. Safe to use from several threads."""

    def __init__(self, repository: str) -> None:
        self._repository = repository
        self._revisions: dict[str, int] = {}
        self._heads: dict[VmId, tuple[int, PointId]] = {}
        self._gone: set[str] = set()
        self._is_changed = False
        self._lock = threading.RLock()
        self._merge()

    @property
    def path(self) -> Path | None:
        """File of the record; None if this user has no directory for state."""
        folder = _folder()
        return None if folder is None else folder / self._repository

    def see(self, name: str, revision: int) -> None:
        """Note the revision of a file; ValueError if a newer one was seen before."""
        with self._lock:
            newest = self._revisions.get(name, 0)
            if revision < newest:
                raise ValueError(
                    f"an older version was put back: it has revision {revision}, and this client "
                    f"has seen {newest}"
                )
            if revision > newest:
                self._revisions[name] = revision
                self._is_changed = True

    def newest(self, name: str) -> int:
        """Return the newest revision of a file that was seen; 0 if none was."""
        with self._lock:
            return self._revisions.get(name, 0)

    def drop(self, name: str) -> None:
        """Forget a file that this client removes."""
        with self._lock:
            if self._revisions.pop(name, None) is not None:
                self._gone.add(name)
                self._is_changed = True

    def older_heads(self, heads: Heads) -> dict[VmId, PointId]:
        """Return the known newest points that are newer than those of *heads*, by VM."""
        with self._lock:
            return {
                vm: point
                for vm, (order, point) in self._heads.items()
                if vm not in heads or heads[vm][0] < order
            }

    def see_heads(self, heads: Heads, removed: Collection[VmId] = ()) -> None:
        """Note the newest points; those of VMs in *removed* were removed on purpose."""
        with self._lock:
            for vm in removed:
                if self._heads.pop(vm, None) is not None:
                    self._gone.add(vm)
                    self._is_changed = True
            for vm, head in heads.items():
                if self._heads.get(vm, (-1,))[0] < head[0]:
                    self._heads[vm] = head
                    self._is_changed = True

    def save(self) -> None:
        """Write the record if it changed; log a failure."""
        with self._lock:
            path = self.path
            if not self._is_changed or path is None:
                return
            self._merge()
            document = {
                "repository": self._repository,
                "revisions": self._revisions,
                "heads": {vm: [order, point] for vm, (order, point) in self._heads.items()},
            }
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace(path, seal(document))
            except (OSError, CbtfsError) as exc:
                log.warning("cannot remember the state of the repository in %s: %s", path, exc)
            self._is_changed = False
            self._gone.clear()

    def _merge(self) -> None:
        """Take over what other processes have saved."""
        path = self.path
        try:
            document = {} if path is None else unseal(load_file(path, MAX_BYTES))
            revisions, heads = document.get("revisions", {}), document.get("heads", {})
            for name, revision in revisions.items():
                if name not in self._gone:
                    self._revisions[name] = max(int(revision), self._revisions.get(name, 0))
            for vm, (order, point) in heads.items():
                known = self._heads.get(VmId(vm), (-1, PointId("")))
                if vm not in self._gone and int(order) > known[0]:
                    self._heads[VmId(vm)] = int(order), PointId(point)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError, CbtfsError) as exc:
            log.warning("the record %s is damaged and is begun again: %s", path, exc)


def known_of(repository: str) -> Known:
    """Return what this client has seen of the repository with this id."""
    with _lock:
        known = _known.get(repository)
        if known is None:
            known = _known[repository] = Known(repository)
        return known


def forget_all() -> None:
    """Drop the records in memory, so that they are loaded again."""
    with _lock:
        _known.clear()


def _folder() -> Path | None:
    given = os.environ.get(_STATE_VARIABLE, "")
    if os.path.isabs(given):
        return Path(given) / "cbtfs" / "known"
    home = os.environ.get("HOME", "")
    return Path(home) / ".local" / "state" / "cbtfs" / "known" if os.path.isabs(home) else None


def _record(name: str) -> Path | None:
    folder = _folder()
    return None if folder is None else folder / name


def _hashed(path: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]


def _record_of(path: Path) -> Path | None:
    """Return the file that says that the directory *path* is an encrypted repository."""
    return _record(f"at-{_hashed(path)}")


def _signed_record(path: Path, repository: str) -> Path | None:
    """Return the file that says that the repository with this id at *path* has capture keys."""
    return _record(f"signed-{_hashed(path)}-{repository}")


def see_encrypted(path: Path, repository: str) -> None:
    """Remember that *path* is an encrypted repository; log a failure."""
    _remember(_record_of(path), path, repository, "is encrypted")


def see_signatures(path: Path, repository: str) -> None:
    """Remember that the repository at *path* has capture keys; log a failure."""
    _remember(_signed_record(path, repository), path, repository, "has capture keys")


def _remember(record: Path | None, path: Path, repository: str, fact: str) -> None:
    if record is None or record.exists():
        return
    try:
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(record, json.dumps({"repository": repository, "path": str(path)}).encode())
    except (OSError, CbtfsError) as exc:
        log.warning("cannot remember in %s that the repository %s: %s", record, fact, exc)


def refuse_downgrade(path: Path) -> None:
    """Raise DataCorrupt if *path* was an encrypted repository when this client last saw it."""
    record = _record_of(path)
    if record is not None and record.exists():
        raise DataCorrupt(
            f"{path} was encrypted when it was last used here, and is not now: nothing is written "
            f"to it unencrypted; if you replaced it on purpose, remove {record}"
        )


def refuse_unsigned(path: Path, repository: str) -> None:
    """Raise DataCorrupt if the repository had capture keys when this client last saw it.

    repository.json is not authenticated. Without its feature, writers would count junk as copies,
    and would encrypt names of files in guests with a key that capture keys have.
    """
    record = _signed_record(path, repository)
    if record is not None and record.exists():
        raise DataCorrupt(
            f"{path} had capture keys when it was last used here, and repository.json does not say "
            "so now: restore repository.json from a copy; if you put back an older copy of the "
            f"repository on purpose, remove {record}"
        )


def forget_path(path: Path) -> None:
    """Forget that *path* was encrypted: a new repository is created there."""
    record = _record_of(path)
    if record is not None:
        record.unlink(missing_ok=True)
