"""Add the directory `files` of each point to a file system: the files of the guest, read-only.

No listing shows it, like `slices`. Names and facts come from the engines of `cbtfs.files`; contents
that consist of parts of disks are read by compiled code, as slices are.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final, TypeVar

from cbtfs.cache import Cache
from cbtfs.core.filenames import GUEST_FILES
from cbtfs.errors import ChunkMissing, PointNotFound
from cbtfs.files.engines import Engines
from cbtfs.files.point import PointFiles
from cbtfs.files.protocol import GuestFileMissing, Kind
from cbtfs.files.tree import File
from cbtfs.mount.entry import Entry, EntryType, GuestFacts
from cbtfs.mount.filesystem import FileSystem
from cbtfs.mount.guest_content import GuestContent, content_of
from cbtfs.mount.guest_numbers import GuestNumbers, guest_number, is_guest
from cbtfs.mount.guest_points import GuestPoints
from cbtfs.mount.inodes import SELF, Directory, base_and_slot, base_in, disk_inode, inode_of
from cbtfs.mount.tree import PointNode
from cbtfs.mount.view_bases import ViewBases
from cbtfs.mount.views import FileSystemWithViews

_TYPES: Final = {
    Kind.FILE: EntryType.FILE,
    Kind.DIRECTORY: EntryType.DIRECTORY,
    Kind.LINK: EntryType.LINK,
    Kind.FIFO: EntryType.FIFO,
    Kind.UNKNOWN: EntryType.FILE,
}
"""Types in the mount; devices are sockets, which nothing can open."""
_CACHED_ENTRIES: Final = 1 << 18
_CACHED_EXTENTS: Final = 1 << 18

Result = TypeVar("Result")


class FileSystemWithGuestFiles:
    """Names, facts and bytes of files of guests; all other requests go to the file system."""

    def __init__(
        self,
        views: FileSystemWithViews,
        file_system: FileSystem,
        numbers: GuestNumbers,
        engines: Engines = Engines(),  # noqa: B008 - it is frozen
    ) -> None:
        self._views = views
        self._file_system = file_system
        self._numbers = numbers
        self._bases = ViewBases(file_system)
        self._points = GuestPoints(file_system, engines)
        self._listings: Cache[int, list[Entry]] = Cache(_CACHED_ENTRIES, _weight)
        self._contents: Cache[int, GuestContent] = Cache(_CACHED_EXTENTS, _extents)
        self.leases = file_system.leases

    @property
    def cached_bytes(self) -> int:
        """Size of the decoded chunks in the cache."""
        return self._views.cached_bytes

    @property
    def open_points(self) -> int:
        """Number of points with open files, in all workers."""
        return self._views.open_points

    def refresh(self) -> None:
        """Follow changes of the catalog, and end unused engines. Call about once a second."""
        self._views.refresh()
        self._points.drop_idle()

    # Names

    def lookup(self, parent: int, name: str) -> Entry | None:
        if self._is_guest(parent):
            return self._guest(parent, lambda tree, path: self._found(parent, tree, path, name))
        entry = self._views.lookup(parent, name)
        base, slot = base_and_slot(parent)
        if entry is not None or name != GUEST_FILES or slot != SELF:
            return entry
        node = self._file_system.tree.by_base.get(base)
        return self._top(node) if isinstance(node, PointNode) else None

    def entry(self, inode: int) -> Entry:
        if is_guest(inode):
            return self._guest(inode, lambda files, path: self._entry(files, _at(files, path)))
        node = self._top_node(inode)
        return self._views.entry(inode) if node is None else self._top(node)

    def entries(self, inode: int, after: int) -> Iterator[tuple[Entry, int]]:
        if not self._is_guest(inode):
            return self._views.entries(inode, after)
        listing = self._listings.load(inode, lambda: self._listing(inode))
        return iter([(entry, at) for at, entry in enumerate(listing[after:], after + 1)])

    def target(self, inode: int) -> str:
        if not is_guest(inode):
            return self._views.target(inode)
        return self._guest(inode, lambda files, path: _at(files, path).target())

    def _listing(self, inode: int) -> list[Entry]:
        def listed(files: PointFiles, path: tuple[str, ...]) -> list[Entry]:
            found = files.tree.entries(_at(files, path))
            return [self._entry(files, file) for file in found]

        entries = self._guest(inode, listed)
        self._numbers.add(inode, ((entry.inode, entry.name) for entry in entries))
        return entries

    def _found(
        self, parent: int, files: PointFiles, path: tuple[str, ...], name: str
    ) -> Entry | None:
        try:
            entry = self._entry(files, files.tree.at((*path, name)))
        except GuestFileMissing:
            return None
        self._numbers.add(parent, [(entry.inode, name)])
        return entry

    @staticmethod
    def _entry(files: PointFiles, file: File) -> Entry:
        entry = file.entry
        return Entry(
            entry.name,
            guest_number(files.point, file.volume.name, entry.inode, file.path),
            _TYPES.get(entry.kind, EntryType.SOCKET),
            entry.modified_ns,
            entry.size,
            entry.size,
            is_name_permanent=True,
            is_content_permanent=True,
            facts=GuestFacts(entry.mode, entry.links, entry.accessed_ns, entry.changed_ns),
        )

    def _top(self, node: PointNode) -> Entry:
        """Return the entry of the directory `files` of a point."""
        return Entry(
            GUEST_FILES,
            inode_of(base_in(node.base, Directory.DESCRIPTORS)),
            EntryType.DIRECTORY,
            self._file_system.files_of(node).time_ns,
            is_name_permanent=True,
            is_content_permanent=True,
        )

    def _is_guest(self, inode: int) -> bool:
        return is_guest(inode) or self._top_node(inode) is not None

    def _top_node(self, inode: int) -> PointNode | None:
        """Return the point whose directory `files` has that number."""
        if base_and_slot(inode)[1] != SELF:
            return None
        view = self._bases.view(inode)
        if view is None or view.directory is not Directory.DESCRIPTORS or view.since is not None:
            return None
        return view.node

    def _located(self, inode: int) -> tuple[PointNode, tuple[str, ...]]:
        """Return point and path of a file."""
        top, names = (inode, []) if not is_guest(inode) else self._numbers.places(inode)
        node = self._top_node(top)
        if node is None:
            raise PointNotFound(f"no point has files with the inode number {top}")
        return node, tuple(names)

    def _guest(self, inode: int, do: Callable[[PointFiles, tuple[str, ...]], Result]) -> Result:
        """Return the result of *do* with the files of the point, and the path of a file."""
        node, path = self._located(inode)
        return self._points.call(node, lambda files: do(files, path))

    # Files

    def open(self, inode: int) -> Entry:
        if not is_guest(inode):
            return self._views.open(inode)
        node, _ = self._located(inode)
        with ExitStack() as stack:
            self.leases.open(node.point)
            stack.callback(self.leases.close, node.point)
            self._content(inode)
            entry = self.entry(inode)
            stack.pop_all()
            return entry

    def close(self, inode: int) -> None:
        if is_guest(inode):
            self.leases.close(self._located(inode)[0].point)
        else:
            self._views.close(inode)

    def _content(self, inode: int) -> GuestContent:
        return self._contents.load(
            inode,
            lambda: self._guest(inode, lambda f, path: content_of(_at(f, path), f.disks)),
        )

    def prepare(self, inode: int, offset: int, length: int) -> bool:
        if not is_guest(inode):
            return self._views.prepare(inode, offset, length)
        content = self._content(inode)
        node, _ = self._located(inode)
        return self._provide(inode, node, content) and all(
            self._file_system.prepare(disk_inode(node.base, p.disk), p.offset, p.length)
            for p in content.pieces(offset, length)
        )

    def _provide(self, inode: int, node: PointNode, content: GuestContent) -> bool:
        """Provide the parts of a file to compiled code; return False if only read() has them."""
        return content.on_disks is not None and self._file_system.open_parts(
            inode, node, [(part.length, part.disk, part.offset) for part in content.on_disks]
        )

    def prepare_seek(self, inode: int, offset: int) -> int | None:
        if not is_guest(inode):
            return self._views.prepare_seek(inode, offset)
        content = self._content(inode)
        node, _ = self._located(inode)
        if not self._provide(inode, node, content):
            return content.size
        for piece in content.pieces(offset, 1):
            self._file_system.prepare_seek(disk_inode(node.base, piece.disk), piece.offset)
        return None

    def read(self, inode: int, offset: int, length: int) -> bytes | memoryview:
        if not is_guest(inode):
            return self._views.read(inode, offset, length)
        node, _ = self._located(inode)
        self.leases.take(node.point)
        content = self._content(inode)
        data = bytearray(max(min(length, content.size - offset), 0))
        for part in content.parts(offset, length):
            if part.offset is not None:
                piece = content.volume.source.read(part.offset, part.length)
            else:
                piece = self._by_engine(inode, part.start, part.length)
            if len(piece) < part.length:
                raise ChunkMissing(f"a file of point {node.point} is shorter than its size")
            data[part.start - offset : part.end - offset] = piece
        return bytes(data)

    def _by_engine(self, inode: int, offset: int, length: int) -> bytes:
        def read(files: PointFiles, path: tuple[str, ...]) -> bytes:
            file = _at(files, path)
            return file.file_system.read(file.inner, offset, length)

        return self._guest(inode, read)


def _at(files: PointFiles, path: tuple[str, ...]) -> File:
    return files.tree.at(path)


def _weight(listing: list[Entry]) -> int:
    return len(listing) + 1


def _extents(content: GuestContent) -> int:
    return len(content.extents) + 1
