"""Struct layouts, constants and signatures of libvixDiskLib on 64-bit Linux.

The semantics are those of VMware's Virtual Disk Development Kit Programming Guide 8.0. Layouts and
signatures follow plugins/vddk/vddk-structs.h and vddk-stubs.h of nbdkit, which works with VDDK 6.5
to 8.0.
"""

import ctypes
from typing import Any, Final

SECTOR: Final = 512
MIN_CHUNK_SECTORS: Final = 128
MAX_CHUNKS: Final = 512 * 1024
"""Maximum number of chunks in one call of QueryAllocatedBlocks."""

OK, ASYNC = 0, 25000
FAIL, NO_MEMORY, INVALID_ARGUMENT, NOT_SUPPORTED = 1, 2, 3, 6
ACCESS_DENIED: Final = 35
"""The server rejects the user, password or cookie, or the user lacks a privilege."""
NO_PERMISSION, NO_SESSION = 3014, 3047
HOST_AWAY: Final = 3046
"""The vCenter cannot reach the VM's host; a later retry may succeed."""
CONNECTION_LOST, TCP_ERROR, TCP_LOST, REFUSED = 36, 14010, 14011, 14009
NO_HOST: Final = 18000
"""No connection to the server, or the server has no free NFC connection."""
SERVER_SHUTDOWN, SERVER_NOT_AVAILABLE = 14014, 14015
"""The host is entering maintenance mode (since VDDK 7.0.1); a later retry may succeed."""

CREDENTIALS_USER, CREDENTIALS_SESSION = 1, 2
SPEC_VMX: Final = 0
OPEN_READ_ONLY: Final = 4

LOG_FUNCTION: Final = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)
"""The second argument is a va_list, which on x86-64 is passed as a pointer (System V ABI)."""
COMPLETION: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64)


def error_number(error: int) -> int:
    """Return the error number, the low 16 bits of an error value (VIX_ERROR_CODE)."""
    return error & 0xFFFF


class _User(ctypes.Structure):
    _fields_ = (("userName", ctypes.c_char_p), ("password", ctypes.c_char_p))


class _SessionId(ctypes.Structure):
    _fields_ = (
        ("cookie", ctypes.c_char_p),
        ("userName", ctypes.c_char_p),
        ("key", ctypes.c_char_p),
    )


class _Credentials(ctypes.Union):
    _fields_ = (("uid", _User), ("sessionId", _SessionId), ("reserved", ctypes.c_void_p))


class _StorageObject(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_char_p),
        ("datastoreMoRef", ctypes.c_char_p),
        ("ssId", ctypes.c_char_p),
    )


class ConnectParams(ctypes.Structure):
    """VixDiskLibConnectParams."""

    _fields_ = (
        ("vmxSpec", ctypes.c_char_p),
        ("serverName", ctypes.c_char_p),
        ("thumbPrint", ctypes.c_char_p),
        ("reserved1", ctypes.c_long),
        ("credType", ctypes.c_int),
        ("creds", _Credentials),
        ("port", ctypes.c_uint32),
        ("nfcHostPort", ctypes.c_uint32),
        ("reserved3", ctypes.c_char_p),
        ("reserved4", ctypes.c_char * 8),
        ("reserved5", ctypes.c_void_p),
        ("spec", _StorageObject),
        ("specType", ctypes.c_int),
    )


class _Geometry(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("cylinders", "heads", "sectors"))


class Info(ctypes.Structure):
    """The members of VixDiskLibInfo that all versions have."""

    _fields_ = (
        ("biosGeo", _Geometry),
        ("physGeo", _Geometry),
        ("capacity", ctypes.c_uint64),
        ("adapterType", ctypes.c_int),
        ("numLinks", ctypes.c_int),
        ("parentFileNameHint", ctypes.c_char_p),
        ("uuid", ctypes.c_char_p),
    )


class BlockList(ctypes.Structure):
    """VixDiskLibBlockList: the number of blocks, then start and length of each in sectors."""

    _fields_ = (("numBlocks", ctypes.c_uint32), ("blocks", ctypes.c_uint64 * 2))


_ERROR, _HANDLE, _TEXT = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p
_PARAMS, _OUT_HANDLE = ctypes.POINTER(ConnectParams), ctypes.POINTER(ctypes.c_void_p)
_U32, _U64 = ctypes.c_uint32, ctypes.c_uint64

SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "InitEx": (_ERROR, (_U32, _U32, LOG_FUNCTION, LOG_FUNCTION, LOG_FUNCTION, _TEXT, _TEXT)),
    "Exit": (None, ()),
    "ListTransportModes": (_TEXT, ()),
    "GetErrorText": (ctypes.c_void_p, (_ERROR, _TEXT)),
    "FreeErrorText": (None, (ctypes.c_void_p,)),
    "ConnectEx": (_ERROR, (_PARAMS, ctypes.c_char, _TEXT, _TEXT, _OUT_HANDLE)),
    "Disconnect": (_ERROR, (_HANDLE,)),
    "Open": (_ERROR, (_HANDLE, _TEXT, _U32, _OUT_HANDLE)),
    "Close": (_ERROR, (_HANDLE,)),
    "GetInfo": (_ERROR, (_HANDLE, ctypes.POINTER(ctypes.POINTER(Info)))),
    "FreeInfo": (None, (ctypes.POINTER(Info),)),
    "GetTransportMode": (_TEXT, (_HANDLE,)),
    "Read": (_ERROR, (_HANDLE, _U64, _U64, ctypes.c_void_p)),
    "PrepareForAccess": (_ERROR, (_PARAMS, _TEXT)),
    "EndAccess": (_ERROR, (_PARAMS, _TEXT)),
    "Cleanup": (_ERROR, (_PARAMS, ctypes.POINTER(_U32), ctypes.POINTER(_U32))),
}
"""Functions of all versions since 6.5, by name without the prefix VixDiskLib_."""

OPTIONAL: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "ReadAsync": (
        _ERROR,
        (_HANDLE, _U64, _U64, ctypes.c_void_p, COMPLETION, ctypes.c_void_p),
    ),
    "Wait": (_ERROR, (_HANDLE,)),
    "AllocateConnectParams": (_PARAMS, ()),
    "QueryAllocatedBlocks": (
        _ERROR,
        (_HANDLE, _U64, _U64, _U64, ctypes.POINTER(ctypes.POINTER(BlockList))),
    ),
    "FreeBlockList": (_ERROR, (ctypes.POINTER(BlockList),)),
}
"""Functions that some supported versions lack; they were added in 6.5 or 6.7."""
