"""The LMDB environment: opening, transactions, and a map that grows automatically."""

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
"""LMDB 0.9: other tools read its files; those of 1.0 are different."""
_MAP_BYTES: Final = 1 << 40
_SMALLEST_MAP_BYTES: Final = 1 << 28
_MAX_READERS: Final = 1024
LOCK: Final = "lock.mdb"
_LOCK_BYTES: Final = (_MAX_READERS + 64) * 64
"""64 for each reader, and at most 4096 for the header."""
_SHORTAGES: Final = (lmdb.LockError, lmdb.DiskError)
_SHORTAGE_WORDS: Final = ("No space left", "Input/output error")
"""Errors of the system that do not prove damage of the file, so that it is not rebuilt."""


def _map_bytes() -> int:
    """Return the address space of the map: 1 TiB, or a quarter of a lower limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return _MAP_BYTES
    return min(_MAP_BYTES, max(limit // 4, _SMALLEST_MAP_BYTES))


def _refuse_shortage(exc: lmdb.Error) -> None:
    """Raise OutOfResources if *exc* reports that a limit of the system was reached."""
    words = str(exc)
    if isinstance(exc, lmdb.MemoryError):
        number = errno.ENOMEM
    elif "Too many open files" in words:
        number = errno.ENFILE if "in system" in words else errno.EMFILE
    elif isinstance(exc, lmdb.ReadersFullError):
        raise OutOfResources(
            f"cannot open the catalog: the maximum of {_MAX_READERS} processes or threads read it; "
            "wait until some end"
        ) from exc
    else:
        return
    raise OutOfResources(f"cannot open the catalog: {explain(number)}") from exc


class Environment:
    """One open catalog. A process opens a folder at most once, and not across a fork.

    Safe to use from several threads. Only the holder of the repository's lock may write.
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
        with opened:
            self._open_in(opened)

    def _open_in(self, opened: Folder) -> None:
        refuse_others(opened.at / LOCK)  # LMDB would follow a link and write to its target.
        self._allocate_lock(opened)
        path = opened.at / DATA
        is_new = not (path.exists() or path.is_symlink())
        if not is_new:
            try:
                check_size(self._folder)
            except FileNotFoundError as exc:  # removed or replaced meanwhile
                raise RepositoryNotFound(_NO_CATALOG.format(self._folder)) from exc
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
                raise RuntimeError(f"{self._folder} is already open in this process") from exc
            _refuse_shortage(exc)
            if isinstance(exc, _SHORTAGES) or any(word in str(exc) for word in _SHORTAGE_WORDS):
                raise StoreFailed(f"cannot open the catalog: {exc}; it is unchanged") from exc
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
        """Return the error of a refused permission, with the file that has it."""
        for path in (self._folder, self._folder / DATA, self._folder / LOCK):
            mode = os.R_OK | os.X_OK if path == self._folder else os.R_OK | os.W_OK
            if not os.access(path, mode):
                return denied(PermissionError(errno.EACCES, str(exc)), path)
        return AccessDenied(f"cannot open the catalog: {exc}; run the command as its owner")

    def _allocate_lock(self, opened: Folder) -> None:
        """Allocate LMDB's lock file completely: LMDB writes it through a memory map, and a page
        that cannot be allocated on a full disk kills the process with SIGBUS.
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
            is_reported_by_lmdb = exc.errno in (errno.EACCES, errno.EROFS, errno.ENOENT)
            if is_reported_by_lmdb or (facts and not self._is_writable):
                return  # A reader only writes to pages that exist.
            refuse_shortage(exc, "cannot open the catalog")
            raise StoreFailed(
                f"cannot open the catalog: {exc.strerror} for its lock; it is unchanged"
            ) from exc

    def reopen(self) -> None:
        """Open the catalog that is in the folder now, once no transaction is open."""
        with self._no_transactions:
            self._wait_idle()
            self._lmdb.close()
            self._open()

    def close(self) -> None:
        self._lmdb.close()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count an open transaction: the map can only be resized while no transaction is open."""
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
        """Wait until no transaction is open; the caller holds the condition."""
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
        """Open a transaction for reading; keep it short."""
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
        """Run *change* in a transaction; return its result once the transaction is durable.

        *change* is called again with a larger map when the map is full.

        Raises:
            StoreFailed: the commit failed. The state of the file is unknown, so the environment
                is closed.
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
                    "repair the storage and run the command again"
                ) from exc

    def _cover_pages(self) -> None:
        """Extend the file to the length of its pages: LMDB may not write free pages at the end.

        Then a file that is too short is known to be damaged without a look at every page.
        """
        length = (self._lmdb.info()["last_pgno"] + 1) * self._lmdb.stat()["psize"]
        with contextlib.suppress(OSError):
            if os.stat(self._folder / DATA).st_size < length:
                os.truncate(self._folder / DATA, length)

    @property
    def last_transaction(self) -> int:
        """Id of the newest committed transaction; -1 if reopening failed."""
        try:
            return int(self._lmdb.info()["last_txnid"])
        except lmdb.Error:
            return -1
