"""Repositories with capture keys for tests, and work in a role."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbtfs.core.rolefile import Role, RoleFile
from cbtfs.store.capture_keys import allow_capture_keys
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.keys import Keys
from cbtfs.store.encryption.roles import keys_of_role, make_role
from cbtfs.store.encryption.slots import Master
from cbtfs.store.repository import writing
from tests.encrypted import DIGEST_KEY, create_encrypted, encrypted_settings
from tests.make_points import BLOCK


def create_with_capture_keys(path: Path, block_size: int = BLOCK) -> Master:
    """Create an encrypted repository that has the feature for capture keys."""
    master = create_encrypted(path, encrypted_settings(block_size))
    with writing(path) as repository:
        allow_capture_keys(repository)
    return master


def role_of(master: Master, role: Role = Role.CAPTURE) -> RoleFile:
    """Return a new key of *role*."""
    return make_role(master.repository, role, {master.epoch: master.key}, DIGEST_KEY)


@contextmanager
def acting(keys: RoleFile | Keys) -> Iterator[Keys]:
    """Hold only these keys of their repository in this process."""
    (before,) = (held for held in ring.held() if held.repository == keys.repository)
    own = keys_of_role(keys) if isinstance(keys, RoleFile) else keys
    ring.hold(own.signing(True))
    try:
        yield own.signing(True)
    finally:
        ring.hold(before)
