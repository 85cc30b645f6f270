"""The open catalog: views, updates, and detection of a replaced catalog."""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cbtfs.errors import RepositoryNotFound, StoreFailed
from cbtfs.store.catalog.environment import Environment
from cbtfs.store.catalog.gate import DATA, verify
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.catalog.turn import TurnTaker
from cbtfs.store.catalog.update import Update
from cbtfs.store.catalog.view import SCHEMA_VERSION, View
from cbtfs.store.digest import UNKEYED, Digester

Result = TypeVar("Result")


def _knows_points(environment: Environment) -> bool:
    """Return whether any point was ever entered; False for a damaged catalog."""
    try:
        with environment.reading() as (transaction, databases):
            return bool(View(transaction, databases).points_version)
    except CatalogDamaged:
        return False


class Catalog:
    """An open catalog."""

    def __init__(
        self,
        folder: Path,
        *,
        is_writable: bool,
        map_bytes: int | None = None,
        schemas: Collection[int] = (SCHEMA_VERSION,),
        digester: Digester = UNKEYED,
        turns: TurnTaker | None = None,
        signer: bytes = b"",
    ) -> None:
        """Open the catalog in *folder*; *digester* computes the digests of its repository.

        A reader that uses only points and packs may pass POINTS_SCHEMAS. *turns* are those of the
        processes that change the catalog, if there may be several. *signer* is that of the packs
        that this process writes (PackFolder.own_signer).

        Raises:
            RepositoryNotFound: there is no catalog, and *is_writable* is false.
            OtherSchema: its schema is not in *schemas*.
            CatalogDamaged: it cannot be opened.
        """
        self._folder = folder
        self._digester = digester
        self._signer = signer
        self._is_writable = is_writable
        self._map_bytes = map_bytes
        self._turns = turns
        self._environment = Environment(folder, is_writable=is_writable, map_bytes=map_bytes)
        self._inode = self._inode_at_path()
        self._folder_inode = os.stat(folder).st_ino
        self._last_transaction = self._environment.last_transaction
        try:
            if is_writable:
                self.update(lambda update: update.set_up())
            else:
                with self.view() as view:
                    view.require_schema(schemas)
        except BaseException:
            self._environment.close()
            raise

    @property
    def is_shared(self) -> bool:
        """Whether several processes may change the catalog."""
        return self._turns is not None

    def close(self) -> None:
        self._environment.close()

    @contextmanager
    def view(self) -> Iterator[View]:
        """Open a consistent view; keep it for a short time."""
        with self._environment.reading() as (transaction, databases):
            yield View(transaction, databases, self._digester, self._signer)

    def update(self, change: Callable[[Update], Result]) -> Result:
        """Run *change* until it is durable, maybe more than once; return its result.

        Raises:
            StoreFailed: the commit failed, or another process has replaced the catalog.
        """
        if self._turns is None:
            return self._write(change)
        with self._turns.held() as turn:
            if turn.is_unsure:
                self._verify()
                turn.is_unsure = False
            if self._inode_at_path() != self._inode:
                raise StoreFailed("another process has rebuilt the catalog: run the command again")
            return self._write(change)

    def _verify(self) -> None:
        """Raise CatalogDamaged if the process that died within a turn has damaged the catalog."""
        problem = verify(self._folder)
        if problem is not None:
            raise CatalogDamaged(problem)

    def _write(self, change: Callable[[Update], Result]) -> Result:
        return self._environment.write(
            lambda transaction, databases: change(
                Update(transaction, databases, self._digester, self._signer)
            )
        )

    def _inode_at_path(self) -> int | None:
        try:
            return os.stat(self._folder / DATA, follow_symlinks=False).st_ino
        except FileNotFoundError:
            return None

    def reopen(self) -> bool:
        """Switch to the catalog that is at the path now.

        Return False, and keep the open one, if there is none or the new one is still being built.
        The old one is closed when its last view ends.
        """
        try:
            inode, folder = os.lstat(self._folder / DATA).st_ino, os.stat(self._folder).st_ino
        except FileNotFoundError:  # removed, or about to be replaced
            return False
        if folder == self._folder_inode:
            # A process may open a folder of LMDB only once, so close it first.
            self._environment.reopen()
        else:
            try:
                fresh = Environment(
                    self._folder, is_writable=self._is_writable, map_bytes=self._map_bytes
                )
                with fresh.reading() as (transaction, databases):
                    view = View(transaction, databases)
                    view.require_schema()
                    knows_points = bool(view.points_version)
            except (CatalogDamaged, RepositoryNotFound):
                return False
            if not knows_points and _knows_points(self._environment):
                return False
            self._environment = fresh
        self._inode, self._folder_inode = inode, folder
        self._last_transaction = self._environment.last_transaction
        return True

    def is_replaced(self) -> bool:
        """Return whether the path has another file, or this file returned to an older state."""
        last = self._environment.last_transaction
        went_back = last < self._last_transaction
        self._last_transaction = last
        return went_back or self._inode_at_path() not in (None, self._inode)
