"""Encrypted repositories for tests, and a switch that encrypts the repositories of all tests."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from cbtfs.core.keyfile import encode_key_file
from cbtfs.core.keyslot import Slot
from cbtfs.core.settings import ENCRYPTION, KEYED_DIGESTS, Settings
from cbtfs.store import repository
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE
from cbtfs.store.encryption.keys import FIRST_EPOCH, keys_of_masters
from cbtfs.store.encryption.slots import Master, file_slot, new_master
from cbtfs.store.settings import new_settings

SECRET: Final = bytes(range(32))
"""Secret of the key files of tests."""
_create = repository.create_repository


def encrypted_settings(block_size: int = 4096, level: int = 1) -> Settings:
    return new_settings(block_size, level, is_encrypted=True)


def create_encrypted(path: Path, settings: Settings) -> Master:
    """Create an encrypted repository that SECRET opens, and hold its keys in this process."""
    master = new_master(settings.id, FIRST_EPOCH)
    ring.hold(keys_of_masters(settings.id, {FIRST_EPOCH: master.key}))
    _create(path, settings, [file_slot(master, "test", SECRET)])
    return master


def write_key(path: Path) -> Path:
    """Write a key file with SECRET to *path*."""
    path.write_text(encode_key_file(SECRET, "of a test"))
    path.chmod(0o600)
    return path


def encrypt_all() -> None:
    """Make every repository that a test creates in its process an encrypted one."""
    folder = Path(tempfile.mkdtemp(prefix="cbtfs-test-key-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[KEY_FILE_VARIABLE] = str(write_key(folder / "key"))

    def create(path: Path, settings: Settings, slots: Sequence[Slot] = ()) -> None:
        if slots:
            _create(path, settings, slots)
        else:
            required = (*settings.required, ENCRYPTION, KEYED_DIGESTS)
            create_encrypted(path, replace(settings, required=required))

    repository.create_repository = create
