"""A ctypes binding of libnbd, with the functions that cbtfs uses; see libnbd(3).

Debian's Python binding works only with Debian's Python, the C library with any. All functions take
a handle, which only one thread at a time may use. Calls release the GIL.
"""

import ctypes
import os
from functools import cache
from typing import Any, Final

from cbtfs.errors import SourceUnavailable

LIBRARY: Final = "libnbd.so.0"
SIZE_MINIMUM, SIZE_PREFERRED, SIZE_MAXIMUM = 0, 1, 2

EXTENT_FUNCTION: Final = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_int),
)


class ExtentCallback(ctypes.Structure):
    """nbd_extent_callback, which receives pairs of length and flags."""

    _fields_ = (
        ("callback", EXTENT_FUNCTION),
        ("user_data", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


class CompletionCallback(ctypes.Structure):
    """nbd_completion_callback; all zeros mean no callback."""

    _fields_ = (
        ("callback", ctypes.c_void_p),
        ("user_data", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


_HANDLE: Final = ctypes.c_void_p
_INT, _I64 = ctypes.c_int, ctypes.c_int64
_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "nbd_create": (_HANDLE, ()),
    "nbd_close": (None, (_HANDLE,)),
    "nbd_get_error": (ctypes.c_char_p, ()),
    "nbd_get_errno": (_INT, ()),
    "nbd_set_uri_allow_local_file": (_INT, (_HANDLE, ctypes.c_bool)),
    "nbd_add_meta_context": (_INT, (_HANDLE, ctypes.c_char_p)),
    "nbd_can_meta_context": (_INT, (_HANDLE, ctypes.c_char_p)),
    "nbd_can_multi_conn": (_INT, (_HANDLE,)),
    "nbd_aio_connect_uri": (_INT, (_HANDLE, ctypes.c_char_p)),
    "nbd_aio_is_ready": (_INT, (_HANDLE,)),
    "nbd_aio_is_connecting": (_INT, (_HANDLE,)),
    "nbd_aio_is_dead": (_INT, (_HANDLE,)),
    "nbd_aio_is_closed": (_INT, (_HANDLE,)),
    "nbd_get_size": (_I64, (_HANDLE,)),
    "nbd_get_block_size": (_I64, (_HANDLE, _INT)),
    "nbd_poll": (_INT, (_HANDLE, _INT)),
    "nbd_aio_pread": (
        _I64,
        (
            _HANDLE,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_uint64,
            CompletionCallback,
            ctypes.c_uint32,
        ),
    ),
    "nbd_aio_pwrite": (
        _I64,
        (
            _HANDLE,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_uint64,
            CompletionCallback,
            ctypes.c_uint32,
        ),
    ),
    "nbd_aio_zero": (
        _I64,
        (_HANDLE, ctypes.c_uint64, ctypes.c_uint64, CompletionCallback, ctypes.c_uint32),
    ),
    "nbd_aio_flush": (_I64, (_HANDLE, CompletionCallback, ctypes.c_uint32)),
    "nbd_is_read_only": (_INT, (_HANDLE,)),
    "nbd_can_zero": (_INT, (_HANDLE,)),
    "nbd_can_flush": (_INT, (_HANDLE,)),
    "nbd_aio_block_status": (
        _I64,
        (
            _HANDLE,
            ctypes.c_uint64,
            ctypes.c_uint64,
            ExtentCallback,
            CompletionCallback,
            ctypes.c_uint32,
        ),
    ),
    "nbd_aio_command_completed": (_INT, (_HANDLE, ctypes.c_uint64)),
}


@cache
def library() -> Any:
    """Return the loaded library; raise SourceUnavailable if it is not installed."""
    try:
        lib = ctypes.CDLL(LIBRARY)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(lib, name)
            function.restype = result
            function.argtypes = arguments
    except (OSError, AttributeError) as exc:
        raise SourceUnavailable(
            f"cannot load {LIBRARY} ({exc}): install it, on Debian with 'apt install libnbd0'"
        ) from exc
    return lib


def last_error() -> tuple[str, int]:
    """Return message and errno of the last libnbd error of this thread."""
    lib = library()
    message = (lib.nbd_get_error() or b"unknown error").decode("utf-8", "replace")
    number = int(lib.nbd_get_errno())
    return message, number


def error_name(number: int) -> str:
    return os.strerror(number) if number else "connection lost"
