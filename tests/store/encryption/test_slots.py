"""Changes of key slots: two at once, interrupted, on a full disk, and beside writers."""

import errno
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from cbtfs.core.ids import is_id
from cbtfs.core.keyfile import encode_key_file
from cbtfs.core.keyslot import Slot
from cbtfs.errors import KeyUnavailable, StoreFailed, UsageError
from cbtfs.store import files
from cbtfs.store.backend import local
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.administer import add_slot, remove_slot
from cbtfs.store.encryption.credentials import Credentials, run_key_command, use
from cbtfs.store.encryption.rotate import rotate
from cbtfs.store.encryption.slots import Master, command_slot, file_slot
from cbtfs.store.repository import reading, writing
from cbtfs.store.settings import load_settings
from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK, add_point, read_point
from tools.crash.child import run_child

OTHER = bytes(range(1, 33))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A repository that the key of the tests opens, and a file with that key is given."""
    create_encrypted(tmp_path / "repo", encrypted_settings(BLOCK))
    use(Credentials(key_files=(write_key(tmp_path / "key"),)))
    yield tmp_path / "repo"
    use(Credentials())
    ring.drop_all()


@pytest.fixture
def name(path: Path) -> str:
    return load_settings(path).id


def second(path: Path, name: str, label: str = "second") -> Slot:
    return add_slot(path, name, partial(file_slot, label=label, secret=OTHER))


def both(tmp_path: Path) -> Credentials:
    """Return the sources of both keys."""
    other = tmp_path / "other"
    other.write_text(encode_key_file(OTHER, "of a test"))
    other.chmod(0o600)
    return Credentials(key_files=(tmp_path / "key", other))


def epochs(path: Path, name: str) -> list[tuple[str, int]]:
    return sorted((slot.label, slot.epoch) for slot in ring.load_slots(path, name))


def test_two_processes_do_not_remove_the_last_two_slots(path: Path, name: str) -> None:
    """Each would see the slot of the other; both wait for a lock, and then look again."""
    second(path, name)

    with ThreadPoolExecutor(2) as pool:
        with closing(ring.open_slots(path)) as held, held.locked():
            removals = [pool.submit(remove_slot, path, name, label) for label in ("test", "second")]
            add = pool.submit(second, path, name, "third")
            for future in (*removals, add):
                with pytest.raises(TimeoutError):
                    future.result(0.05)
            assert len(ring.load_slots(path, name)) == 2
            add.cancel()
        errors = [future.exception(60) for future in removals]

    assert sum(isinstance(error, UsageError) for error in errors) == 1
    assert errors.count(None) == 1
    assert len(ring.load_slots(path, name)) == 1


def test_a_slot_that_is_made_beside_a_rotation_is_refused(path: Path, name: str) -> None:
    """It would have the old key, and its owner would learn that too late."""

    def make(master: Master) -> Slot:
        with writing(path):
            rotate(path, name, drops_others=False)
        return file_slot(master, "late", OTHER)

    with pytest.raises(UsageError, match="rotated meanwhile"):
        add_slot(path, name, make)

    assert epochs(path, name) == [("test", 2)]


def test_a_writer_uses_the_key_of_a_rotation_that_it_waited_for(path: Path, name: str) -> None:
    """The process has unlocked the repository before, as one that captures many VMs has."""
    contents = [random.Random(seed).randbytes(BLOCK) for seed in range(2)]
    first = add_point(path, {"disk": contents[0]})
    old = ring.keys_of(path)
    with writing(path):
        rotate(path, name, drops_others=False)
    assert old is not None
    ring.hold(old)

    point = add_point(path, {"disk": contents[1]})

    packs = list(path.glob("packs/??/*"))
    assert {int.from_bytes(file.read_bytes()[12:16], "little") for file in packs} == {1, 2}
    manifest = (path / "points" / point.point).read_bytes()
    assert int.from_bytes(manifest[12:16], "little") == 2
    assert read_point(path, first) == {"disk": contents[0]}
    assert read_point(path, point) == {"disk": contents[1]}


def interrupt(path: Path, name: str, tmp_path: Path) -> None:
    """Begin a rotation in a process that dies after it wrote one slot of the new epoch."""
    given = both(tmp_path)
    create, slots = local.Directory.create, list[str]()

    def counted(self: local.Directory, slot: str, data: bytes) -> None:
        if is_id(slot) and slots:
            os._exit(0)
        slots.extend([slot] if is_id(slot) else [])
        create(self, slot, data)

    def work(_: object) -> None:
        use(given)
        pytest.MonkeyPatch().setattr(local.Directory, "create", counted)
        rotate(path, name, drops_others=False)

    assert run_child(work).code == 0


def test_a_writer_with_the_key_of_an_old_epoch_is_refused(
    path: Path, name: str, tmp_path: Path
) -> None:
    """A rotation that was killed has left the old slot of a key beside a new slot of another."""
    second(path, name)
    interrupt(path, name, tmp_path)
    labels = {"test": both(tmp_path).key_files[0], "second": both(tmp_path).key_files[1]}
    newest = {label for label, epoch in epochs(path, name) if epoch == 2}
    (left,) = labels.keys() - newest

    use(Credentials(key_files=(labels[left],)))
    ring.drop_all()
    with reading(path):
        pass
    with pytest.raises(KeyUnavailable, match="old epoch 1"), writing(path):
        pass
    with pytest.raises(UsageError, match="newer key"):
        remove_slot(path, name, next(s.id for s in ring.load_slots(path, name) if s.epoch == 2))
    use(both(tmp_path))
    ring.drop_all()
    with writing(path):
        pass


def test_an_interrupted_rotation_is_repeated_for_all_slots(
    path: Path, name: str, tmp_path: Path
) -> None:
    second(path, name)
    point = add_point(path, {"disk": b"x" * BLOCK})
    interrupt(path, name, tmp_path)

    ring.drop_all()
    with pytest.raises((UsageError, KeyUnavailable)):
        rotate(path, name, drops_others=False)
    use(both(tmp_path))
    rotation = rotate(path, name, drops_others=False)

    assert rotation.epoch == 3
    assert epochs(path, name) == [("second", 3), ("test", 3)]
    for file in both(tmp_path).key_files:
        use(Credentials(key_files=(file,)))
        ring.drop_all()
        assert read_point(path, point) == {"disk": b"x" * BLOCK}


def test_a_rotation_leaves_a_slot(path: Path, name: str, tmp_path: Path) -> None:
    """A key command opens a slot, but it cannot make a new one."""
    script = tmp_path / "unwrap"
    script.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "sys.stdout.buffer.write(bytes(b ^ 1 for b in sys.stdin.buffer.read()))\n"
    )
    script.chmod(0o700)
    wrap = partial(run_key_command, str(script), limit=1024)
    add_slot(path, name, partial(command_slot, label="command", wrap=wrap))
    use(Credentials(command=str(script)))
    before = epochs(path, name)

    with pytest.raises(UsageError, match="no key slot would be left"):
        rotate(path, name, drops_others=True)

    assert epochs(path, name) == before


def test_two_rotations_at_once_follow_one_another(path: Path, name: str) -> None:
    def turn() -> int:
        with writing(path, lock_wait=60):
            return rotate(path, name, drops_others=False).epoch

    with ThreadPoolExecutor(2) as pool, writing(path) as repository:
        turns = [pool.submit(turn) for _ in range(2)]
        assert repository.settings.id == name

    assert sorted(future.result(60) for future in turns) == [2, 3]
    assert epochs(path, name) == [("test", 3)]
    ring.drop_all()
    assert read_point(path, add_point(path, {"disk": b"y" * BLOCK})) == {"disk": b"y" * BLOCK}


@pytest.mark.parametrize("failing", range(4))
def test_a_change_on_a_full_disk_changes_nothing(
    path: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever write fails, the old keys stay the newest, and both open the repository."""
    old = second(path, name)
    point = add_point(path, {"disk": b"x" * BLOCK})
    use(both(tmp_path))
    before, writes = sorted((path / "keys").iterdir()), list[int]()
    write_all = files.write_all

    def full(fd: int, parts: Sequence[bytes | memoryview]) -> int:
        writes.append(fd)
        if len(writes) > failing:
            os.write(fd, b"part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_all(fd, parts)

    change: Callable[[], object] = partial(rotate, path, name, drops_others=False)
    if failing == 3:  # It has written the file of the epoch, and two slots.
        writes.extend(range(3))
        make = partial(file_slot, label="new", secret=bytes(32))
        change = partial(add_slot, path, name, make, instead_of=old)
    monkeypatch.setattr(files, "write_all", full)
    with pytest.raises(StoreFailed, match="No space left"):
        change()
    monkeypatch.undo()

    slots = {file for file in (path / "keys").iterdir() if is_id(file.name)}
    assert slots == {file for file in before if is_id(file.name)}
    for file in both(tmp_path).key_files:
        use(Credentials(key_files=(file,)))
        ring.drop_all()
        assert read_point(path, point) == {"disk": b"x" * BLOCK}
    use(both(tmp_path))
    assert rotate(path, name, drops_others=False).epoch == 2
