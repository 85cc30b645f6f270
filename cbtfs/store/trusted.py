"""The record of trusted packs: those of a capture key that a reader has verified.

Packs that were written before the repository had a capture key are listed, too. The list is signed
with a key that no capture key has. An entry is bound to the identity of its pack, so a pack that
replaces another one under its name is not trusted.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cbtfs.core.frame import SIGNATURE_BYTES
from cbtfs.core.ids import PackId
from cbtfs.errors import DataCorrupt
from cbtfs.store.backend.layout import LARGEST_RECORD, TRUSTED, load_record, save_record
from cbtfs.store.storing import storing

if TYPE_CHECKING:
    from cbtfs.store.encryption.keys import Keys

log = logging.getLogger(__name__)

_HEADER: Final = struct.Struct("<8sII")
_MAGIC: Final = b"cbtfstru"
_VERSION: Final = 1
_ENTRY: Final = struct.Struct("<16s32s")

Trusted = Mapping[PackId, bytes]
"""Identity of each trusted pack (Pack.identity)."""


def load_trusted(path: Path, keys: Keys) -> Trusted:
    """Return the trusted packs of the repository at *path*; none, with a warning, if damaged."""
    try:
        return _decode(load_record(path, TRUSTED, LARGEST_RECORD), keys)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, DataCorrupt) as exc:
        log.warning("the file %s is damaged (%s): run check --read-data", TRUSTED, exc)
        return {}


def save_trusted(path: Path, keys: Keys, packs: Trusted) -> None:
    """Replace the list. Only for the writer, with keys that can read content."""
    assert keys.can_read
    entries = b"".join(_ENTRY.pack(bytes.fromhex(pack), packs[pack]) for pack in sorted(packs))
    signature = keys.signer.sign_list(bytes.fromhex(keys.repository) + entries)
    head = _HEADER.pack(_MAGIC, _VERSION, len(packs))
    with storing("the record of trusted packs"):
        save_record(path, TRUSTED, head + signature + entries)


def _decode(data: bytes, keys: Keys) -> Trusted:
    from cbtfs.store.encryption.signatures import signer_of_list

    start = _HEADER.size + SIGNATURE_BYTES
    if len(data) < start:
        raise ValueError("it ends early")
    magic, version, count = _HEADER.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION) or len(data) != start + count * _ENTRY.size:
        raise ValueError("it is of another version or size")
    entries = data[start:]
    signer = signer_of_list(data[_HEADER.size : start], bytes.fromhex(keys.repository) + entries)
    if signer is None or not keys.is_reader(signer):
        raise ValueError("it is not signed by a key that can read content")
    return {PackId(pack.hex()): identity for pack, identity in _ENTRY.iter_unpack(entries)}
