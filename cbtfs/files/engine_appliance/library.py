"""libguestfs by its C interface, which is stable and has bytes as names.

The Python binding of Debian decodes names as UTF-8, so a name with other bytes hides its whole
directory. Source: guestfs(3), libguestfs 1.48.
"""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

_LIBRARY: Final = "libguestfs.so.0"
_READONLY: Final = 1
_FORMAT: Final = 2
"""Bits of the first two optional arguments of guestfs_add_drive_opts()."""


class GuestfsError(Exception):
    """Raised if a call of libguestfs fails; `number` is an errno of the appliance, or 0."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class _DriveOptions(ctypes.Structure):
    _fields_ = (
        ("bitmask", ctypes.c_uint64),
        ("readonly", ctypes.c_int),
        ("format", ctypes.c_char_p),
        # Later members are not read, because their bits are not set.
        ("others", ctypes.c_void_p * 16),
    )


class Stat(ctypes.Structure):
    """The structure statns of libguestfs."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("dev", "ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"),
            *("atime_sec", "atime_nsec", "mtime_sec", "mtime_nsec", "ctime_sec", "ctime_nsec"),
            *("spare1", "spare2", "spare3", "spare4", "spare5", "spare6"),
        )
    )


class _Dirent(ctypes.Structure):
    _fields_ = (("ino", ctypes.c_int64), ("kind", ctypes.c_char), ("name", ctypes.c_char_p))


class _Xattr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("length", ctypes.c_uint32),
        ("value", ctypes.POINTER(ctypes.c_char)),
    )


def _list_of(item: type[ctypes.Structure]) -> type[ctypes.Structure]:
    class _List(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint32), ("items", ctypes.POINTER(item)))

    return _List


_STATS: Final = _list_of(Stat)
_DIRENTS: Final = _list_of(_Dirent)
_XATTRS: Final = _list_of(_Xattr)


class Guestfs:
    """A handle: an appliance with disks. One thread uses it."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            OSError: it is not installed.
        """
        self._library = ctypes.CDLL(_LIBRARY)
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = [ctypes.c_void_p]
        self._handle = ctypes.c_void_p(self._function("create", ctypes.c_void_p)())
        self._function("set_error_handler", None)(self._handle, None, None)

    def _function(self, name: str, result: Any) -> Callable[..., Any]:
        function = self._library[f"guestfs_{name}"]
        function.restype = result
        return function

    def _fail(self) -> GuestfsError:
        text = self._function("last_error", ctypes.c_char_p)(self._handle)
        number = self._function("last_errno", ctypes.c_int)(self._handle)
        return GuestfsError((text or b"it failed").decode("utf-8", "replace"), number)

    def do(self, name: str, *arguments: Any) -> int:
        """Call a function that returns a number: -1 is an error."""
        result: int = self._function(name, ctypes.c_int)(self._handle, *arguments)
        if result == -1:
            raise self._fail()
        return result

    def text(self, name: str, *arguments: Any) -> bytes:
        """Call a function that returns a string."""
        with self._owned(name, *arguments) as address:
            return ctypes.string_at(address)

    def texts(self, name: str, *arguments: Any) -> list[bytes]:
        """Call a function that returns a list of strings."""
        with self._owned(name, *arguments) as address:
            items = ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))
            found: list[bytes] = []
            while (item := items[len(found)]) is not None:
                found.append(ctypes.string_at(item))
                self._free(item)
            return found

    @contextmanager
    def _owned(self, name: str, *arguments: Any) -> Iterator[int]:
        """Yield the address of a result, and free it at the end."""
        address = self._function(name, ctypes.c_void_p)(self._handle, *arguments)
        if not address:
            raise self._fail()
        try:
            yield address
        finally:
            self._free(address)

    @contextmanager
    def _structure(self, name: str, kind: Any, free: str, *arguments: Any) -> Iterator[Any]:
        address = self._function(name, ctypes.POINTER(kind))(self._handle, *arguments)
        if not address:
            raise self._fail()
        try:
            yield address.contents
        finally:
            self._function(f"free_{free}", None)(address)

    def add_disk(self, path: bytes) -> None:
        """Add a raw disk, to which the appliance cannot write: it gets an overlay."""
        options = _DriveOptions(_READONLY | _FORMAT, 1, b"raw")
        self.do("add_drive_opts_argv", path, ctypes.byref(options))

    def lstat(self, path: bytes) -> Stat:
        """Return the facts of a file; a link is not followed."""
        with self._structure("lstatns", Stat, "statns", path) as facts:
            return Stat.from_buffer_copy(facts)

    def lstats(self, directory: bytes, names: Sequence[bytes]) -> list[Stat]:
        """Return the facts of files in a directory; `ino` is -1 for one that cannot be read."""
        with self._structure(
            "lstatnslist", _STATS, "statns_list", directory, _array(names)
        ) as found:
            return [Stat.from_buffer_copy(found.items[n]) for n in range(found.length)]

    def names(self, directory: bytes) -> list[bytes]:
        """Return the names in a directory."""
        with self._structure("readdir", _DIRENTS, "dirent_list", directory) as found:
            return [found.items[number].name for number in range(found.length)]

    def attributes(self, path: bytes) -> dict[bytes, bytes]:
        """Return the extended attributes of a file; a link is not followed."""
        with self._structure("lgetxattrs", _XATTRS, "xattr_list", path) as found:
            items = [found.items[number] for number in range(found.length)]
            return {i.name: ctypes.string_at(i.value, i.length) for i in items}

    def read(self, path: bytes, count: int, offset: int) -> bytes:
        """Return at most *count* bytes of a file."""
        size = ctypes.c_size_t()
        arguments = (path, ctypes.c_int(count), ctypes.c_int64(offset), ctypes.byref(size))
        with self._owned("pread", *arguments) as address:
            return ctypes.string_at(address, size.value)

    def shell(self, command: bytes) -> bytes:
        """Return the output of a command of the appliance."""
        return self.text("debug", b"sh", _array([command]))

    def close(self) -> None:
        """End the appliance."""
        self._function("close", None)(self._handle)


def _array(names: Sequence[bytes]) -> Any:
    return (ctypes.c_char_p * (len(names) + 1))(*names, None)
