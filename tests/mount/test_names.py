"""Names in the mount: directories of VMs that share a name, links by id and links by time."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cbtfs.core.moment import format_moment
from tests.make_points import BLOCK
from tests.mount.mount_process import Server, serving, wait_until
from tests.naming import Names, vm_of

pytestmark = pytest.mark.mounts

A, B = vm_of("a", "web1"), vm_of("b", "web1")


@pytest.fixture
def names(repository: Path) -> Names:
    return Names(repository)


@pytest.fixture
def server(repository: Path, names: Names, tmp_path: Path) -> Iterator[Server]:
    names.add("2020-01-01T00:00:00Z", A, content=b"first" * BLOCK)
    with serving(repository, tmp_path / "mnt", "--workers=2") as server:
        yield server


def test_open_files_stay_valid_when_another_vm_takes_the_name(server: Server, names: Names) -> None:
    root = server.root
    folder = root / "web1"
    number, numbers = folder.stat().st_ino, {p.lstat().st_ino for p in folder.rglob("*")}
    by_id = root / ".by-id" / A.id / "latest" / "disk.raw"
    assert by_id.read_bytes() == b"first" * BLOCK

    with (folder / "latest" / "disk.raw").open("rb") as file:
        opened = os.fstat(file.fileno()).st_ino
        names.add("2020-01-02T00:00:00Z", B, content=b"second" * BLOCK)
        assert wait_until(lambda: folder.stat().st_ino != number)

        assert file.read() == b"first" * BLOCK
        assert os.fstat(file.fileno()).st_ino == opened
    before = root / "web1~aaaaaaaa"
    assert sorted(os.listdir(root)) == ["web1", "web1~aaaaaaaa"]
    assert (folder / "latest" / "disk.raw").read_bytes() == b"second" * BLOCK
    assert (before / "latest" / "disk.raw").read_bytes() == b"first" * BLOCK
    assert before.stat().st_ino == number
    assert {p.lstat().st_ino for p in before.rglob("*")} == numbers
    assert opened == (before / "latest" / "disk.raw").stat().st_ino
    assert by_id.read_bytes() == b"first" * BLOCK
    assert os.readlink(root / ".by-id" / A.id) == "../web1~aaaaaaaa"
    assert os.readlink(root / ".by-id" / B.id) == "../web1"


def test_a_renamed_vm_has_a_link_with_its_former_name_until_another_vm_takes_it(
    server: Server, names: Names
) -> None:
    root = server.root
    number = (root / "web1").stat().st_ino
    names.add("2020-01-02T00:00:00Z", vm_of("a", "web1-old"))
    assert wait_until(lambda: os.listdir(root) == ["web1-old"])
    assert (root / "web1-old").stat().st_ino == number
    assert os.readlink(root / "web1") == "web1-old"

    names.add("2020-01-03T00:00:00Z", B, content=b"new")
    assert wait_until(lambda: not (root / "web1").is_symlink())
    assert (root / "web1" / "latest" / "disk.raw").read_bytes() == b"new"
    assert (root / "web1-old" / "2020-01-01T00-00-00Z" / "disk.raw").read_bytes()


def test_the_directory_of_ids_is_hidden_and_lists_every_vm(server: Server, names: Names) -> None:
    names.add("2020-01-02T00:00:00Z", B)
    folder = server.root / ".by-id"

    assert wait_until(lambda: set(os.listdir(folder)) == {A.id, B.id})
    assert ".by-id" not in os.listdir(server.root)
    assert all((folder / name).is_symlink() for name in os.listdir(folder))
    assert (folder / "..").stat().st_ino == server.root.stat().st_ino
    assert not (folder / ("c" * 32)).exists()
    assert folder.stat().st_mode & 0o777 == 0o500


def test_a_link_by_time_is_resolved_at_each_look_up_and_not_listed(
    server: Server, names: Names
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    old = names.add(format_moment(now - timedelta(days=3)), A)
    vm = server.root / "web1"
    assert wait_until(lambda: old.name in os.listdir(vm))

    assert os.readlink(vm / "@-2d") == old.name
    assert os.readlink(vm / "@2020-01-01T00:00Z") == "2020-01-01T00-00-00Z"
    assert os.readlink(vm / "@latest~1") == "2020-01-01T00-00-00Z"
    assert os.readlink(vm / f"@{old.point[:12]}") == old.name
    for name in ("@-9999d", "@yesterday", "@", "@2019-12-31"):
        assert not (vm / name).exists()
    assert set(os.listdir(vm)) == {"latest", "2020-01-01T00-00-00Z", old.name}

    newer = names.add(format_moment(now - timedelta(days=2, minutes=1)), A)
    assert wait_until(lambda: os.readlink(vm / "latest") == newer.name)
    assert os.readlink(vm / "@-2d") == newer.name  # at once: the kernel does not cache it
    assert (vm / "@-2d" / "disk.raw").read_bytes() == newer.time.encode()


def test_an_imported_older_image_does_not_move_latest(server: Server, names: Names) -> None:
    link = server.root / "web1" / "latest"
    imported = names.add("2019-01-01T00:00:00Z", A, source="given")
    assert wait_until(lambda: imported.name in os.listdir(link.parent))
    assert os.readlink(link) == "2020-01-01T00-00-00Z"

    newer = names.add("2021-01-01T00:00:00Z", A, source="given")
    assert wait_until(lambda: os.readlink(link) == newer.name)
