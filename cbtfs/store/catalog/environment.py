"""The LMDB environment: opening, transactions, and a map that grows without anybody's care."""

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from cbtfs.errors import (
    AccessDenied,
    OutOfResources,
    RepositoryNotFound,
    StoreFailed,
)
from cbtfs.shortage import explain, refuse_shortage
from cbtfs.store.catalog.gate import DATA, check_size
from cbtfs.store.catalog.records import DATABASES, INTEGER_KEYS, CatalogDamaged
from cbtfs.store.files import FILE_MODE, make_folder, refuse_others
from cbtfs.store.folder import Folder
from cbtfs.store.owner import denied, give_new

Databases = dict[bytes, Any]
Result = TypeVar("Result")

_NO_CATALOG: Final = "no catalog at {}: run a command that writes, once"
ENGINE: Final = 0
"""LMDB 0.9: its files are not those of 1.0, and this is the one that other tools read."""
_MAP_BYTES: Final = 1 << 40
_SMALLEST_MAP_BYTES: Final = 1 << 28
_MAX_READERS: Final = 1024
LOCK: Final = "lock.mdb"
_LOCK_BYTES: Final = (_MAX_READERS + 64) * 64
"""64 for each reader, and no more than 4096 for what comes before them."""
_SHORTAGES: Final = (lmdb.LockError, lmdb.DiskError)
_SHORTAGE_WORDS: Final = ("No space left", "Input/output error")
"""What says nothing about the file: it must not be taken for damage, and rebuilt."""


def _map_bytes() -> int:
    """Address space for the map: 1 TiB, a quarter of the limit where there is one."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return _MAP_BYTES
    return min(_MAP_BYTES, max(limit // 4, _SMALLEST_MAP_BYTES))


def _refuse_shortage(exc: lmdb.Error) -> None:
    """Raise OutOfResources if *exc* tells of a limit that was met, and nothing of the file."""
    words = str(exc)
    if isinstance(exc, lmdb.MemoryError):
        number = errno.ENOMEM
    elif "Too many open files" in words:
        number = errno.ENFILE if "in system" in words else errno.EMFILE
    elif isinstance(exc, lmdb.ReadersFullError):
        raise OutOfResources(
            f"cannot open the catalog: {_MAX_READERS} processes or threads read it, which is the "
            "most there can be; wait until some have ended"
        ) from exc
    else:
        return
    raise OutOfResources(f"cannot open the catalog: {explain(number)}") from exc


class Environment:
    """One open catalog. At most one in a process for each folder, none across a fork.

    Safe to use from several threads; writing is for the one process that holds the repository's
    lock.
    """

    def __init__(self, folder: Path, *, is_writable: bool, map_bytes: int | None = None) -> None:
        self._folder = folder
        self._is_writable = is_writable
        self._map_bytes = map_bytes or _map_bytes()
        self._no_transactions = threading.Condition()
        self._transactions = 0
        self._awaited = 0
        self._one_writer = threading.Lock()
        if is_writable:
            make_folder(folder)
        self._open()

    def _open(self) -> None:
        try:
            opened = Folder(self._folder)
        except FileNotFoundError as exc:
            raise RepositoryNotFound(_NO_CATALOG.format(self._folder)) from exc
        refuse_others(opened.at / LOCK)  # LMDB follows links, and writes to where they lead
        self._have_room_for_lock(opened)
        path = opened.at / DATA
        is_new = not (path.exists() or path.is_symlink())
        if not is_new:
            check_size(self._folder)
        elif not self._is_writable:
            raise RepositoryNotFound(_NO_CATALOG.format(self._folder))
        try:
            self._lmdb = lmdb.open(
                str(opened.at),
                map_size=self._map_bytes,
                readonly=not self._is_writable,
                create=self._is_writable,
                mode=FILE_MODE,
                max_dbs=len(DATABASES),
                max_readers=_MAX_READERS,
                max_spare_txns=8,
                readahead=False,
                lib_version=ENGINE,
            )
        except lmdb.Error as exc:
            if "Permission denied" in str(exc) or "Read-only" in str(exc):
                raise self._denied(exc) from exc
            if "already open" in str(exc):
                raise RuntimeError(f"{self._folder} is open in this process already") from exc
            _refuse_shortage(exc)
            if isinstance(exc, _SHORTAGES) or any(word in str(exc) for word in _SHORTAGE_WORDS):
                raise StoreFailed(f"cannot open the catalog: {exc}; it is as it was") from exc
            raise CatalogDamaged(str(exc)) from exc
        if is_new:
            give_new(path)
        try:
            self._lmdb.reader_check()
            self._databases: Databases = {
                name: self._lmdb.open_db(
                    name, integerkey=name in INTEGER_KEYS, create=self._is_writable
                )
                for name in DATABASES
            }
        except lmdb.Error as exc:
            self._lmdb.close()
            _refuse_shortage(exc)
            raise CatalogDamaged(str(exc)) from exc

    def _denied(self, exc: lmdb.Error) -> AccessDenied:
        """The error of a catalog that may not be opened, with the file that stands in the way."""
        for path in (self._folder, self._folder / DATA, self._folder / LOCK):
            mode = os.R_OK | os.X_OK if path == self._folder else os.R_OK | os.W_OK
            if not os.access(path, mode):
                return denied(PermissionError(errno.EACCES, str(exc)), path)
        return AccessDenied(f"cannot open the catalog: {exc}; be its owner")

    def _have_room_for_lock(self, opened: Folder) -> None:
        """Let all of LMDB's lock be on the storage: it is written to by memory, without a call
        that could fail, and where the disk is full that ends the process (SIGBUS).
        """
        path = opened.at / LOCK
        try:
            facts = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            facts = None
        if facts is not None and facts.st_blocks * 512 >= _LOCK_BYTES:
            return
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
            try:
                if facts is None:
                    give_new(path, fd)
                os.posix_fallocate(fd, 0, _LOCK_BYTES)
            finally:
                os.close(fd)
        except OSError as exc:
            is_for_lmdb_to_say = exc.errno in (errno.EACCES, errno.EROFS, errno.ENOENT)
            if is_for_lmdb_to_say or (facts and not self._is_writable):
                return  # A reader writes to what was written to before.
            refuse_shortage(exc, "cannot open the catalog")
            raise StoreFailed(
                f"cannot open the catalog: {exc.strerror} for its lock; it is as it was"
            ) from exc

    def reopen(self) -> None:
        """Open what stands at the folder now, once no transaction is open."""
        with self._no_transactions:
            self._wait_idle()
            self._lmdb.close()
            self._open()

    def close(self) -> None:
        self._lmdb.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """The map can be resized only while no transaction is open."""
        with self._no_transactions:
            self._transactions += 1
        try:
            yield
        finally:
            with self._no_transactions:
                self._transactions -= 1
                if self._awaited:
                    self._no_transactions.notify_all()

    def _wait_idle(self) -> None:
        """Wait until no transaction is open; the condition is held."""
        self._awaited += 1
        try:
            self._no_transactions.wait_for(lambda: self._transactions == 0)
        finally:
            self._awaited -= 1

    def _resize(self, map_bytes: int) -> None:
        with self._no_transactions:
            self._wait_idle()
            self._lmdb.set_mapsize(map_bytes)

    def _begin(self) -> Any:
        try:
            return self._lmdb.begin(write=False)
        except lmdb.MapResizedError:
            return None

    @contextmanager
    def reading(self) -> Iterator[tuple[Any, Databases]]:
        """A transaction for reading; keep it short."""
        while True:
            with self._counted():
                try:
                    transaction = self._begin()
                    if transaction is not None:
                        with transaction:
                            yield transaction, self._databases
                        return
                except lmdb.Error as exc:
                    _refuse_shortage(exc)
                    raise CatalogDamaged(str(exc)) from exc
            self._resize(0)

    def write(self, change: Callable[[Any, Databases], Result]) -> Result:
        """What *change* returns once its transaction is durable.

        It is run again from the start with a larger map when the map is full. StoreFailed if
        the commit fails: then it is unknown what the file holds, and the environment is closed.
        """
        with self._one_writer:
            return self._write(change)

    def _write(self, change: Callable[[Any, Databases], Result]) -> Result:
        while True:
            try:
                with self._counted(), self._lmdb.begin(write=True) as transaction:
                    result = change(transaction, self._databases)
                self._cover_pages()
                return result
            except lmdb.MapResizedError:
                self._resize(0)
            except lmdb.MapFullError:
                self._resize(self._lmdb.info()["map_size"] * 2)
            except lmdb.Error as exc:
                self._lmdb.close()
                raise StoreFailed(
                    f"cannot write the catalog: {exc}; nothing committed is lost, "
                    "mend the storage and run the command again"
                ) from exc

    def _cover_pages(self) -> None:
        """Let the file be as long as its pages: LMDB may leave free ones at its end unwritten.

        Only so can a short file be told for a damaged one without looking at every page.
        """
        length = (self._lmdb.info()["last_pgno"] + 1) * self._lmdb.stat()["psize"]
        with contextlib.suppress(OSError):
            if os.stat(self._folder / DATA).st_size < length:
                os.truncate(self._folder / DATA, length)

    @property
    def last_transaction(self) -> int:
        """Id of the newest committed transaction; -1 if the environment could not be reopened."""
        try:
            return int(self._lmdb.info()["last_txnid"])
        except lmdb.Error:
            return -1
