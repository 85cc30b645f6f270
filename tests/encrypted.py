"""Encrypted repositories for tests, and a switch that encrypts the repositories of all tests."""

import atexit
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from cbtfs.core.keyfile import encode_key_file
from cbtfs.core.settings import CAPTURE, ENCRYPTION, KEYED_DIGESTS, Settings
from cbtfs.store import digest, repository
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE
from cbtfs.store.encryption.keys import FIRST_EPOCH, keys_of_masters
from cbtfs.store.encryption.known import forget_all
from cbtfs.store.encryption.slots import Master, file_slot, new_master, previous_epoch
from cbtfs.store.settings import new_settings

SECRET: Final = bytes(range(32))
"""Secret of the key files of tests."""
DIGEST_KEY: Final = bytes(range(64, 96))
"""All repositories of tests share it, so they are related."""
_create = repository.create_repository


def encrypted_settings(block_size: int = 4096, level: int = 1) -> Settings:
    return new_settings(block_size, level, is_encrypted=True)


def create_encrypted(path: Path, settings: Settings) -> Master:
    """Create an encrypted repository that SECRET opens, and hold its keys in this process."""
    master = new_master(settings.id, FIRST_EPOCH)
    ring.hold(keys_of_masters(settings.id, {FIRST_EPOCH: master.key}, DIGEST_KEY))
    slots = [file_slot(master, "test", SECRET)]
    _create(path, settings, repository.NewKeys(previous_epoch(master, DIGEST_KEY), slots))
    return master


def write_key(path: Path) -> Path:
    """Write a key file with SECRET to *path*."""
    path.write_text(encode_key_file(SECRET, "of a test"))
    path.chmod(0o600)
    return path


def forget_clients() -> None:
    """Forget what clients have seen: tests copy repositories, and continue with each copy."""
    shutil.rmtree(Path(os.environ["XDG_STATE_HOME"], "cbtfs", "known"), ignore_errors=True)
    forget_all()


def encrypt_all() -> None:
    """Make every repository that a test creates in its process an encrypted one."""
    folder = Path(tempfile.mkdtemp(prefix="cbtfs-test-key-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    os.environ[KEY_FILE_VARIABLE] = str(write_key(folder / "key"))

    def create(path: Path, settings: Settings, keys: repository.NewKeys | None = None) -> None:
        if keys is not None:
            _create(path, settings, keys)
        else:
            required = (*settings.required, ENCRYPTION, KEYED_DIGESTS)
            if os.environ["CBTFS_TEST_ENCRYPTED"] == "signed" and not settings.is_shared:
                required = (*required, CAPTURE)
            create_encrypted(path, replace(settings, required=required))

    repository.create_repository = create
    keyed = digest.Digester(DIGEST_KEY)
    # Test modules import these later. The module declares them final.
    vars(digest).update(digest_of=keyed.object, chunk_digest=keyed.chunk)
