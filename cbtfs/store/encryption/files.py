"""Encrypted files: manifests, states, pins and records, and a backend that encrypts them."""

import hashlib
import os
import secrets
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cbtfs.core.sealed import MAX_BYTES
from cbtfs.errors import DataCorrupt
from cbtfs.native import PackFile
from cbtfs.store.backend.base import (
    Backend,
    Buffers,
    Content,
    FileBackend,
    Head,
    OpenObject,
    Parts,
    Upload,
)
from cbtfs.store.encryption.keys import Keys
from cbtfs.store.encryption.known import Known
from cbtfs.store.files import read_into, write_all

MAGIC: Final = b"CBTFSENC"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHHI12sI")
_LENGTH: Final = struct.Struct("<I")
_SEAL_BYTES: Final = 32
_MAX_REVISION: Final = (1 << 32) - 1
_PADDING: Final = 512
"""Lengths are rounded up to this, so that a file's size does not reveal its content's."""
LARGEST: Final = MAX_BYTES + (1 << 16)
"""Maximum size of an encrypted file that holds sealed JSON."""
LARGEST_INDEX: Final = 1 << 30
"""Maximum size of an encrypted index of files."""

_INDEXES: Final = b"indexes/"
_ASIDE: Final = ".tmp"
"""End of the names of files that get their name by a rename."""
_REPLACED: Final = (b".state", b".distrusted")
"""Ends of the names of files that are replaced."""
_RENAMED: Final = ((".forgotten", ""), (".armed.tmp", ".distrusted"))
"""Suffixes that a rename gives and takes; a file is bound to its name without them."""


class FileDamaged(DataCorrupt, ValueError):
    """Raised for an encrypted file that is damaged or another one; the text is only the reason."""


def bound_name(directory: str, name: str) -> bytes:
    """Return the name that an encrypted file is bound to."""
    for suffix, other in _RENAMED:
        if name.endswith(suffix):
            name = name.removesuffix(suffix) + other
    return f"{directory}/{name}".encode() if directory else name.encode()


def _cipher(keys: Keys, epoch: int, name: bytes) -> AESGCM:
    of = keys.of(epoch)
    key = of.meta
    if keys.signs and name.startswith(_INDEXES):  # They have names of files, which are content.
        key = of.of_indexes(keys.repository)
    return AESGCM(blake3(b"cbtfs file" + name, key=key).digest())


def next_revision(previous: int | None) -> int:
    """Return the revision of a file that replaces one with *previous*; None: there is none.

    It is the time, so that a file that is created again has a larger one, too.
    """
    wanted = max(int(time.time()), 0 if previous is None else previous + 1)
    return min(wanted, _MAX_REVISION)


def revision_of(data: bytes) -> int | None:
    """Return the revision of an encrypted file that begins with *data*, unverified; or None."""
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        return None
    return int(_HEADER.unpack_from(data)[5])


def seal_file(keys: Keys, name: bytes, data: bytes, revision: int) -> bytes:
    """Return *data* encrypted for the file *name*."""
    plain = _LENGTH.pack(len(data)) + data
    plain += bytes(-len(plain) % _PADDING)
    nonce = secrets.token_bytes(12)
    header = _HEADER.pack(MAGIC, _VERSION, 0, keys.epoch, nonce, revision)
    bound = header + bytes.fromhex(keys.repository) + name
    sealed = header + _cipher(keys, keys.epoch, name).encrypt(nonce, plain, bound)
    return sealed + hashlib.sha256(sealed).digest()


def verify_file(data: bytes, largest: int = LARGEST) -> int:
    """Verify an encrypted file without its key; return its epoch. ValueError if it is damaged."""
    if len(data) > largest:
        raise ValueError("too large")
    if len(data) < _HEADER.size + _SEAL_BYTES or not data.startswith(MAGIC):
        raise ValueError("it is not encrypted")
    body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if hashlib.sha256(body).digest() != seal:
        raise ValueError("its checksum does not match")
    _, version, flags, epoch, _, _ = _HEADER.unpack_from(data)
    if version != _VERSION or flags:
        raise ValueError("it uses an unknown feature")
    return int(epoch)


def open_file(keys: Keys, name: bytes, data: bytes, largest: int = LARGEST) -> bytes:
    """Return the content of the encrypted file *name*; ValueError if it is damaged or another's."""
    epoch = verify_file(data, largest)
    header = data[: _HEADER.size]
    nonce = _HEADER.unpack(header)[4]
    bound = header + bytes.fromhex(keys.repository) + name
    sealed = data[_HEADER.size : -_SEAL_BYTES]
    try:
        plain = _cipher(keys, epoch, name).decrypt(nonce, sealed, bound)
    except InvalidTag as exc:
        raise ValueError("its tag does not match: it is damaged, or another file") from exc
    (length,) = _LENGTH.unpack_from(plain)
    if length > len(plain) - _LENGTH.size:
        raise ValueError("its length is wrong")
    return plain[_LENGTH.size : _LENGTH.size + length]


class SealedObjects:
    """A Backend that encrypts whole objects of another one.

    Names, stored sizes and times are visible, and head() tells the stored size. An object is bound
    to its name: after a rename it is only readable if bound_name() is the same.
    """

    def __init__(
        self,
        backend: Backend,
        keys: Keys,
        directory: str,
        *,
        is_large: bool = False,
        known: Known | None = None,
    ) -> None:
        """Own *backend*. *directory* is its name in the repository, which binds the objects.

        *known* remembers the newest revisions. If objects are *is_large* and read in parts, the
        last one is kept after it was decrypted.
        """
        self._backend = backend
        self._largest = LARGEST_INDEX if is_large else LARGEST
        self._keeps_last = is_large
        self._known = known
        self._last: tuple[str, Head, bytes] | None = None
        self._keys = keys
        self._directory = directory

    def close(self) -> None:
        self._backend.close()

    def path(self, name: str) -> Path:
        return self._backend.path(name)

    def _sealed(self, name: str, data: bytes, previous: int | None = None) -> bytes:
        bound = bound_name(self._directory, name)
        newest = 0 if self._known is None else self._known.newest(bound.decode())
        revision = next_revision(max(previous or 0, newest))
        return seal_file(self._keys, bound, data, revision)

    def create(self, name: str, data: bytes) -> None:
        self._backend.create(name, self._sealed(name, data))

    def _see(self, bound: bytes, sealed: bytes) -> None:
        """Remember the revision of a file that is replaced; ValueError if a newer one was seen."""
        if self._known is not None and bound.endswith(_REPLACED):
            self._known.see(bound.decode(), revision_of(sealed) or 0)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> Content:
        last = self._last
        if last is not None and last[:2] == (name, self._backend.head(name)):
            _, head, data = last
        else:
            content = self._backend.get(name, 0, self._largest + 1)
            head, bound = content.head, bound_name(self._directory, name)
            try:
                data = open_file(self._keys, bound, content.data, self._largest)
                self._see(bound, content.data)
            except ValueError as exc:
                raise FileDamaged(str(exc)) from exc
            if self._keeps_last:
                self._last = name, head, data
        end = len(data) if length is None else offset + length
        return Content(data[offset:end], head)

    def upload(self, name: str) -> Upload:
        return _SealedUpload(self._backend.upload(name), lambda data: self._sealed(name, data))

    def open(self, name: str) -> OpenObject:
        opened = self._backend.open(name)  # Before get(), so that both are the same object.
        return _DecryptedObject(opened, self.get(name).data)

    def names(self) -> Collection[str]:
        return self._backend.names()

    def names_after(self, name: str, prefix: str = "") -> Iterator[str]:
        return self._backend.names_after(name, prefix)

    def head(self, name: str) -> Head:
        return self._backend.head(name)

    def sizes(self) -> Mapping[str, int]:
        return self._backend.sizes()

    def delete(self, name: str) -> None:
        self._backend.delete(name)
        if self._known is not None and not name.endswith(_ASIDE):
            self._known.drop(bound_name(self._directory, name).decode())

    def unfinished(self) -> int:
        return self._backend.unfinished()

    def discard_unfinished(self) -> int:
        return self._backend.discard_unfinished()

    def follow(self) -> bool:
        return self._backend.follow()

    def flush(self) -> None:
        self._backend.flush()


class SealedBackend(SealedObjects):
    """A FileBackend that encrypts whole objects of another one."""

    def __init__(
        self,
        backend: FileBackend,
        keys: Keys,
        directory: str,
        *,
        is_large: bool = False,
        known: Known | None = None,
    ) -> None:
        super().__init__(backend, keys, directory, is_large=is_large, known=known)
        self._files = backend

    def replace(self, name: str, data: bytes) -> None:
        try:
            previous = revision_of(self._backend.get(name, 0, _HEADER.size).data)
        except (OSError, DataCorrupt):
            previous = None
        sealed = self._sealed(name, data, previous)
        self._files.replace(name, sealed)
        if not name.endswith(_ASIDE):  # Until it is renamed, the older file is the newest.
            self._see(bound_name(self._directory, name), sealed)

    def rename(self, name: str, new: str) -> None:
        self._files.rename(name, new)

    def lease(self, name: str) -> AbstractContextManager[None]:
        return self._files.lease(name)

    def claim(self, name: str) -> AbstractContextManager[bool]:
        return self._files.claim(name)

    def locked(self) -> AbstractContextManager[None]:
        return self._files.locked()


class _SealedUpload:
    """An object that is kept in memory until it is complete: it is encrypted whole."""

    def __init__(self, upload: Upload, seal: Callable[[bytes], bytes]) -> None:
        self._upload = upload
        self._seal = seal
        self._parts: list[bytes] = []

    def write(self, parts: Parts) -> int:
        written = [bytes(part) for part in parts]
        self._parts += written
        return sum(map(len, written))

    def close(self) -> None:
        self._upload.write([self._seal(b"".join(self._parts))])
        self._upload.close()

    def abandon(self) -> None:
        self._upload.abandon()


class _DecryptedObject:
    """The content of an object, in memory that has a descriptor."""

    def __init__(self, opened: OpenObject, data: bytes) -> None:
        self._opened = opened
        self.path = opened.path
        self.size = len(data)
        self._fd = os.memfd_create("cbtfs object", os.MFD_CLOEXEC)
        self.file = PackFile(self._fd)
        write_all(self._fd, [data])

    @property
    def is_removed(self) -> bool:
        return self._opened.is_removed

    def read_into(self, buffers: Buffers, offset: int) -> int:
        return read_into(self._fd, buffers, offset)

    def data_from(self, offset: int) -> int:
        return min(offset, self.size)

    def fetch(self, offset: int, length: int) -> None:
        """Do nothing: all bytes are here."""

    def fetch_again(self, offset: int, length: int) -> bool:
        return False

    def pin(self) -> None:
        """Do nothing: the object is not a copy."""
