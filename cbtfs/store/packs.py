"""The packs of a repository, with a bounded number of open ones."""

from __future__ import annotations

import re
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cbtfs.core.frame import SIGNER_BYTES, Frame
from cbtfs.core.ids import PackId
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt, OutOfResources, StoreUnreachable
from cbtfs.store.backend.base import Backend, NoReply
from cbtfs.store.backend.layout import open_packs
from cbtfs.store.backend.remote import is_remote
from cbtfs.store.catalog.records import UNSIGNED, PackRecord
from cbtfs.store.catalog.view import View
from cbtfs.store.digest import UNKEYED, Digester
from cbtfs.store.encryption.ring import keys_of
from cbtfs.store.pack import Pack, PackWriter
from cbtfs.store.trusted import Trusted, load_trusted

if TYPE_CHECKING:
    from cbtfs.store.encryption.keys import Keys

_MAX_OPEN: Final = 128
"""Packs that stay open; a quarter of the process's limit of open files if that is less."""

_MAX_WINDOWS: Final = 8
"""Packs of a bucket that stay open for a verification, which have a window of 4 MiB each."""
_FETCHERS: Final = 16
"""Extents in flight: with 30 ms for each, 16 of 1 MiB are 500 MB/s."""

_PACK = re.compile(r"[0-9a-f]{32}\Z")


class PackFolder:
    """The packs of a backend. Safe to use from several threads."""

    def __init__(
        self,
        backend: Backend,
        keys: Keys | None = None,
        load_trusted: Callable[[], Trusted] = dict,
        *,
        is_remote: bool = False,
        max_open: int = _MAX_OPEN,
    ) -> None:
        """Own *backend*. *keys* encrypt new packs and decrypt the others.

        *load_trusted* returns the packs of capture keys that a reader has verified. If the backend
        *is_remote*, readers fetch ahead, and chunks and nodes are in separate packs.
        """
        self.is_remote = is_remote
        self._fetchers: ThreadPoolExecutor | None = None
        self._backend = backend
        self._keys = keys
        self._load_trusted = load_trusted
        self._trusted: Trusted | None = None
        self.digester = UNKEYED if keys is None else Digester(keys.digest)
        """Computes the digests of the objects."""
        self._open: OrderedDict[PackId, Pack] = OrderedDict()
        self._lock = threading.Lock()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_open = max_open if files < 0 else max(min(max_open, files // 4), 1)

    def close(self) -> None:
        """Close the backend and all packs that nobody else refers to."""
        with self._lock:
            fetchers, self._fetchers = self._fetchers, None
            self._open.clear()
        if fetchers is not None:
            fetchers.shutdown(cancel_futures=True)
        self._backend.close()

    def path(self, pack: PackId) -> Path:
        """Return the path of a pack, for messages."""
        return self._backend.path(pack)

    def ids(self) -> set[PackId]:
        """Return the closed packs."""
        return {PackId(name) for name in self._backend.names() if _PACK.match(name)}

    def remove_leftovers(self) -> int:
        """Remove packs that a stale writer left open; return their number. Only for the writer."""
        return self._backend.discard_unfinished()

    def count_leftovers(self) -> int:
        """Return the number of open packs, including those of an active writer."""
        return self._backend.unfinished()

    @property
    def epoch(self) -> int | None:
        """Key epoch of new packs; None if the repository is not encrypted."""
        return None if self._keys is None else self._keys.epoch

    def of_older_epochs(self, packs: Iterable[PackId]) -> set[PackId]:
        """Return those of *packs* that are encrypted under an older key epoch than the newest."""
        newest = self.epoch
        if newest is None or newest == 1:  # No epoch is older.
            return set()
        return {pack for pack in packs if 0 < self.open(pack).epoch < newest}

    def signer(self, pack: PackId) -> bytes:
        """Return the signer of a pack for its PackRecord.

        Raises:
            DataCorrupt: the pack is signed, and repository.json does not say that packs are.
        """
        keys = self._keys
        if keys is None:
            return b""
        if not keys.signs:
            if not self.is_remote:  # A bucket has no capture keys.
                self._refuse_signed(pack)
            return b""
        try:
            identity, signer = self.open(pack).identity()
        except (ChunkMissing, DataCorrupt):
            return UNSIGNED
        if signer is not None and keys.is_reader(signer):
            return b""
        if self._trusted is None:
            self._trusted = self._load_trusted()
        if identity and self._trusted.get(pack) == identity:
            return b""
        return UNSIGNED if signer is None else signer[:SIGNER_BYTES]

    def _refuse_signed(self, pack: PackId) -> None:
        """Raise DataCorrupt if *pack* is signed: somebody has removed the feature."""
        try:
            is_signed = self.open(pack).is_signed
        except (ChunkMissing, DataCorrupt):
            return  # Readers of the pack report it.
        if is_signed:
            raise DataCorrupt(
                f"pack {pack} is signed, and repository.json does not say that the repository has "
                "capture keys: restore repository.json from a copy"
            )

    @property
    def can_read_content(self) -> bool:
        """Whether the key of this process decrypts chunks."""
        return self._keys is None or self._keys.can_read

    @property
    def own_signer(self) -> bytes:
        """Signer of new packs for their PackRecord."""
        return b"" if self._keys is None else self._keys.pack_signer

    def unverified(self, view: View) -> Mapping[int, PackRecord]:
        """Return the packs whose frames are no copies for a writer with the keys of this process.

        Those are packs of other capture keys that no reader has verified.
        """
        if self._keys is None or not self._keys.signs:
            return {}
        return view.unverified_packs(self.own_signer)

    def create(self, pack: PackId) -> PackWriter:
        """Create a pack; DataCorrupt if its directory is a link."""
        return PackWriter(pack, self._backend.upload(pack), self._keys)

    def open(self, pack: PackId) -> Pack:
        """Return the open pack with this id; ChunkMissing if it does not exist."""
        with self._lock:
            opened = self._open.get(pack)
            if opened is not None:
                self._open.move_to_end(pack)
                return opened
        try:
            opened = self._opened(pack)
        except FileNotFoundError as exc:
            raise ChunkMissing(f"pack {pack} is gone") from exc
        except NoReply as exc:
            raise StoreUnreachable(f"cannot open pack {pack}: {exc.strerror}") from exc
        except OSError as exc:
            raise DataCorrupt(f"cannot open pack {pack}: {exc.strerror}") from exc
        with self._lock:
            self._open[pack] = opened
            while len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return opened

    def _opened(self, pack: PackId) -> Pack:
        """Open a pack; if this process has no descriptor left, close the other packs first."""
        try:
            return self._pack(pack)
        except OutOfResources:
            with self._lock:
                if not self._open:
                    raise
                self._open.clear()
            return self._pack(pack)
        except FileNotFoundError:
            if not self._backend.follow():  # A copy may have replaced the directory.
                raise
            return self._pack(pack)

    def _pack(self, pack: PackId) -> Pack:
        return Pack(self._backend.open(pack), self._keys, self.digester)

    def fetch_ahead(self, pack: PackId, offset: int, length: int) -> None:
        """Begin to fetch bytes of a remote pack; a failure is left to the reader of the bytes."""

        def fetch() -> None:
            with suppress(CbtfsError):
                self.open(pack).fetch(offset, length)

        with self._lock:
            if self._fetchers is None:
                self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetch")
            self._fetchers.submit(fetch)

    def size(self, pack: PackId) -> int:
        """Return the size of the pack in bytes; OSError if that fails."""
        return self._backend.head(pack).size

    def sizes(self) -> Mapping[str, int]:
        """Return the sizes of all packs in bytes, by id; OSError if that fails."""
        return self._backend.sizes()

    def frames(self, pack: PackId) -> tuple[list[Frame], str | None]:
        """Return the frames of a pack, and the error of its trailer if it had to be scanned."""
        opened = self.open(pack)
        try:
            return opened.trailer(), None
        except DataCorrupt as exc:
            return list(opened.scan()), str(exc)

    def remove(self, pack: PackId) -> None:
        """Remove a pack that the catalog does not refer to any more."""
        with self._lock:
            self._open.pop(pack, None)
        self._backend.delete(pack)

    def close_removed(self) -> None:
        """Close open packs that were deleted, so that their space becomes free."""
        with self._lock:
            removed = [pack for pack, opened in self._open.items() if opened.is_removed]
            for pack in removed:
                del self._open[pack]

    def forget_open(self) -> None:
        """Close every open pack: its path may name another file now."""
        self._backend.follow()
        with self._lock:
            self._open.clear()


def digester_of(repository: Path) -> Digester:
    """Return the digests of a repository; KeyUnavailable if it is encrypted and no key fits."""
    keys = keys_of(repository)
    return UNKEYED if keys is None else Digester(keys.digest)


def signer_of(repository: Path) -> bytes:
    """Return the signer of the packs that this process writes; raises what digester_of() raises."""
    keys = keys_of(repository)
    return b"" if keys is None else keys.pack_signer


def open_pack_folder(repository: Path, *, is_verifying: bool = False) -> PackFolder:
    """Return the packs of a repository, with its keys if it is encrypted.

    A reader that *is_verifying* gets no bytes of the local copies of a bucket.

    Raises:
        DataCorrupt: their directory is missing or a link.
        KeyUnavailable: the repository is encrypted, and no key given fits.
    """
    keys = keys_of(repository)
    is_away = is_remote(repository)
    max_open = _MAX_WINDOWS if is_away and is_verifying else _MAX_OPEN
    packs = open_packs(repository, is_verifying=is_verifying)
    if keys is None:
        return PackFolder(packs, is_remote=is_away, max_open=max_open)
    trusted = partial(load_trusted, repository, keys)
    return PackFolder(packs, keys, trusted, is_remote=is_away, max_open=max_open)
