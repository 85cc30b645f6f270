"""Engines show what the kernel that wrote a file system shows: the suite of the protocol."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from cbtfs.core.extent import Extent
from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.protocol import FORMAT_OF_KIND, Entry, FileSystem, GuestFileMissing, Kind
from tests.files.conftest import Machine
from tests.files.guest_trees import APPLIANCE_SHAPES, MANY, SHAPES, ImageSource, make, write_tree

pytestmark = [pytest.mark.mounts, pytest.mark.limit(1800)]


@dataclass(frozen=True, slots=True)
class Guest:
    """A file system, and its files as the kernel shows them."""

    file_system: FileSystem
    source: ImageSource
    entries: dict[str, Entry]
    attributes: dict[str, dict[str, bytes]]
    targets: dict[str, str]
    contents: dict[str, bytes]


@pytest.fixture(scope="module", params=[*SHAPES, *APPLIANCE_SHAPES])
def guest(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    if request.param in APPLIANCE_SHAPES:
        machine: Machine = request.getfixturevalue("machine")
        written = machine.written[request.param]
        file_system: FileSystem = machine.appliance.open(request.param, 0)
    else:
        image = tmp_path_factory.mktemp("guest") / "image"
        make(image, SHAPES[request.param])
        written = write_tree(image)
        file_system = ParsedFileSystem(ImageSource(image), "ext")
    yield Guest(
        file_system,
        ImageSource(written.image),
        written.entries,
        written.attributes,
        written.targets,
        written.contents,
    )
    file_system.close()


def walked(file_system: FileSystem, path: str = "/") -> Iterator[tuple[str, Entry]]:
    """Yield all files with their paths."""
    for entry in file_system.entries(path):
        inner = f"{path.rstrip('/')}/{entry.name}"
        yield inner, entry
        if entry.kind is Kind.DIRECTORY:
            yield from walked(file_system, inner)


def test_all_files_are_listed_with_all_facts(guest: Guest) -> None:
    shown = {path: replace(entry, created_ns=None) for path, entry in walked(guest.file_system)}

    assert shown == {path: entry for path, entry in guest.entries.items() if path != "/"}
    assert len(shown) > MANY // 2


def test_a_scan_has_all_files_and_knows_which_contents_are_in_an_area(guest: Guest) -> None:
    whole = [Extent(0, guest.source.size)]
    scanned = dict[str, tuple[int, ...]]()
    plain_folders = list(guest.file_system.scan())
    for plain, mapped in zip(plain_folders, guest.file_system.scan(whole), strict=True):
        assert (plain.path, plain.names, plain.modes) == (mapped.path, mapped.names, mapped.modes)
        assert not plain.layouts
        facts = (plain.modes, plain.inodes, plain.owners, plain.groups, plain.sizes, plain.modified)
        for name, *row in zip(plain.names, *facts, mapped.touched, strict=True):
            path = f"{plain.path.rstrip('/')}/{name}"
            scanned[path] = tuple(row[:-1])
            entry = guest.entries[path]
            has_data = any(guest.contents.get(path, b"")) or path == "/sparse"
            assert row[-1] or not (entry.kind is Kind.FILE and has_data), path

    assert scanned == {
        path: (
            FORMAT_OF_KIND[entry.kind] | entry.mode,
            *(entry.inode, entry.owner, entry.group, entry.size, entry.modified_ns),
        )
        for path, entry in guest.entries.items()
        if path != "/"
    }


def test_a_path_has_the_facts_of_its_entry(guest: Guest) -> None:
    for path, entry in list(guest.entries.items())[::13]:
        assert replace(guest.file_system.stat(path), created_ns=None) == entry


def test_links_have_their_targets(guest: Guest) -> None:
    assert {path: guest.file_system.target(path) for path in guest.targets} == guest.targets


def test_attributes_and_acls_are_those_of_the_system_calls(guest: Guest) -> None:
    chosen = [path for path, attributes in guest.attributes.items() if attributes]
    chosen += ["/", "/small", "/link", "/null", "/names"]

    for path in chosen:
        assert guest.file_system.attributes(path) == guest.attributes[path]


def test_contents_are_equal_by_read(guest: Guest) -> None:
    for path, data in guest.contents.items():
        if len(data) or path == "/empty":
            assert guest.file_system.read(path, 0, 1 << 20) == data[: 1 << 20]
    fragmented = guest.contents["/fragmented"]
    for offset in range(0, len(fragmented) + 5000, 99_991):
        part = guest.file_system.read("/fragmented", offset, 70_000)
        assert part == fragmented[offset : offset + 70_000]


def test_contents_are_equal_by_extents(guest: Guest) -> None:
    for path, data in guest.contents.items():
        rebuilt = bytearray(len(data))
        for extent in guest.file_system.extents(path):
            part = (
                guest.source.read(extent.offset, extent.length)
                if extent.offset is not None
                else guest.file_system.read(path, extent.start, extent.length)
            )
            rebuilt[extent.start : extent.end] = part
        assert rebuilt == data


def test_holes_are_not_part_of_the_extents(guest: Guest) -> None:
    for path in ("/sparse", "/fragmented"):
        size = guest.entries[path].size
        assert sum(extent.length for extent in guest.file_system.extents(path)) < size
    large = guest.entries["/sparse"].size
    assert guest.file_system.read("/sparse", 69_998, 10) == b"\0\0data at "
    assert guest.file_system.read("/sparse", large - 5, 100) == bytes(5)
    assert guest.file_system.read("/sparse", large + 5, 100) == b""


def test_extents_continue_from_an_offset(guest: Guest) -> None:
    extents = list(guest.file_system.extents("/fragmented"))
    middle = extents[len(extents) // 2]

    after = list(guest.file_system.extents("/fragmented", middle.start))

    assert after == extents[len(extents) // 2 :]


@pytest.mark.parametrize(
    "path", ["/nothing", "/small/file", "/directory/in/nothing", "/link/x", "/" + "x" * 300]
)
def test_a_missing_path_is_reported(guest: Guest, path: str) -> None:
    with pytest.raises(GuestFileMissing):
        guest.file_system.stat(path)
    with pytest.raises(GuestFileMissing):
        list(guest.file_system.entries(path))


def test_a_method_refuses_a_file_of_another_type(guest: Guest) -> None:
    with pytest.raises(GuestFileMissing):
        list(guest.file_system.entries("/small"))
    with pytest.raises(GuestFileMissing):
        guest.file_system.read("/directory", 0, 10)
    with pytest.raises(GuestFileMissing):
        guest.file_system.target("/small")
    with pytest.raises(GuestFileMissing):
        list(guest.file_system.extents("/null"))
