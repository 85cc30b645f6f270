"""Load libvixDiskLib and call it: errors become exceptions, log records become text."""

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from cbtfs.source.transport.vddk import abi, frame

_PREFIX: Final = "VixDiskLib_"
_NAME: Final = re.compile(r"libvixDiskLib\.so\.(\d{1,3})((?:\.\d{1,6}){0,5})\Z")
_VERSIONS: Final = {6: (6, 5), 7: (7, 0), 8: (8, 0), 9: (9, 0)}
"""Interface version to request, by the major version in the library's file name."""
VERSIONS: Final = "6.5 to 9"
"""Supported releases of VDDK, for messages."""
_LINE: Final = 4000
_SPARE: Final = 1024
"""Spare bytes after ConnectParams, in case the library's struct is longer than ours."""
_LIBC: Final = ctypes.CDLL(None)
_LIBC.vsnprintf.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)

Log = Callable[[str, str], None]
"""Callback with the level and the line; any thread may call it."""


class VixError(Exception):
    """Raised when a call of the library fails."""

    def __init__(self, call: str, error: int, text: str) -> None:
        super().__init__(f"{_PREFIX}{call}: {text}")
        self.call = call
        self.number = abi.error_number(error)
        self.text = text


class LibraryFile(NamedTuple):
    """Path of a library and the interface version that it provides."""

    path: Path
    major: int
    minor: int

    @property
    def folder(self) -> Path:
        """The directory with the library and its dependencies."""
        return self.path.parent

    @property
    def home(self) -> Path:
        """VMware's libdir: the parent of lib64, or the library's own directory."""
        return self.folder.parent if self.folder.name == "lib64" else self.folder


def find_library(libdir: Path) -> LibraryFile | None:
    """Return the newest libvixDiskLib in the folder lib64 of *libdir*, or else in *libdir*."""
    for folder in (libdir / "lib64", libdir):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        known = [match for name in names if (match := _NAME.match(name)) and _major(match)]
        if known:
            newest = max(known, key=_preference)
            return LibraryFile(folder / newest[0], *_VERSIONS[_major(newest)])
    return None


def _major(match: re.Match[str]) -> int:
    """Return the major version in the name of a library; 0 if it is not supported."""
    major = int(match[1])
    return major if major in _VERSIONS else 0


def _preference(match: re.Match[str]) -> tuple[int, bool, list[int]]:
    """Return a sort key: newest major version, then a name without release, then the release."""
    rest = [int(number) for number in match[2].split(".")[1:]]
    return _major(match), not rest, rest


def formatted(template: bytes, arguments: int) -> str:
    """Return the output of vsnprintf for a template and a va_list; this consumes the va_list."""
    buffer = ctypes.create_string_buffer(_LINE)
    _LIBC.vsnprintf(buffer, _LINE, template, arguments)
    return buffer.value.decode("utf-8", "replace").rstrip()


class Library:
    """The initialised library. One per process; only the main thread may call it.

    All arguments stay allocated until the process ends, because VMware does not document which
    strings the library copies. The process opens only one disk, so this costs little memory.
    """

    def __init__(self, file: LibraryFile, log: Log) -> None:
        """Load and initialise the library; raise OSError or VixError if that fails."""
        self._lib: Any = ctypes.CDLL(str(file.path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        self._functions: dict[str, Any] = {}
        for name, signature in abi.SIGNATURES.items():
            self._bind(name, signature)
        for name, signature in abi.OPTIONAL.items():
            if hasattr(self._lib, _PREFIX + name):
                self._bind(name, signature)
        self._kept: list[Any] = [
            self._log_function(level, log) for level in ("debug", "info", "warning")
        ]
        self.check("InitEx", file.major, file.minor, *self._kept[:3], os.fsencode(file.home), None)

    def _bind(self, name: str, signature: tuple[Any, tuple[Any, ...]]) -> None:
        try:
            function = getattr(self._lib, _PREFIX + name)
        except AttributeError as exc:
            raise OSError(f"it has no {_PREFIX}{name}") from exc
        function.restype, function.argtypes = signature
        self._functions[name] = function

    @staticmethod
    def _log_function(level: str, log: Log) -> Any:
        def write(template: bytes | None, arguments: int | None) -> None:
            if template:
                log(level, formatted(template, arguments or 0))

        return abi.LOG_FUNCTION(write)

    def has(self, name: str) -> bool:
        """Return whether this version has the function *name*."""
        return name in self._functions

    def call(self, name: str, *arguments: Any) -> Any:
        return self._functions[name](*arguments)

    def check(self, name: str, *arguments: Any) -> None:
        """Call a function that returns an error code; raise VixError unless it is VIX_OK."""
        error = int(self.call(name, *arguments))
        if error != abi.OK:
            raise VixError(name, error, self.error_text(error))

    def error_text(self, error: int) -> str:
        pointer = self.call("GetErrorText", error, None)
        if not pointer:
            return f"error {abi.error_number(error)}"
        words = (ctypes.string_at(pointer) or b"").decode("utf-8", "replace").strip().rstrip(".")
        self.call("FreeErrorText", pointer)
        return f"{words} ({abi.error_number(error)})"

    def params(self) -> Any:
        """Return a pointer to zeroed connection parameters."""
        if self.has("AllocateConnectParams"):
            pointer = self.call("AllocateConnectParams")
            if not pointer:
                raise VixError("AllocateConnectParams", abi.NO_MEMORY, "no memory")
            return pointer
        memory = ctypes.create_string_buffer(ctypes.sizeof(abi.ConnectParams) + _SPARE)
        self._kept.append(memory)
        return ctypes.cast(memory, ctypes.POINTER(abi.ConnectParams))

    def keep(self, text: str | None) -> bytes | None:
        """Return *text* as a C string that stays allocated at one address."""
        if text is None:
            return None
        kept = text.encode()
        self._kept.append(kept)
        return kept

    def capacity(self, handle: Any) -> int:
        """Return the size of an open disk in sectors."""
        info = ctypes.POINTER(abi.Info)()
        self.check("GetInfo", handle, ctypes.byref(info))
        try:
            return int(info.contents.capacity)
        finally:
            self.call("FreeInfo", info)

    def allocated(self, handle: Any, start: int, count: int, chunk: int) -> bytes:
        """Return the allocated blocks of *count* sectors from *start*, packed as frame.RANGE."""
        answer = ctypes.POINTER(abi.BlockList)()
        self.check("QueryAllocatedBlocks", handle, start, count, chunk, ctypes.byref(answer))
        try:
            blocks = int(answer.contents.numBlocks)
            first = ctypes.addressof(answer.contents) + abi.BlockList.blocks.offset
            return ctypes.string_at(first, blocks * frame.RANGE.size)
        finally:
            self.check("FreeBlockList", answer)
