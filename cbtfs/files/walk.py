"""All files below a directory of a guest."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cbtfs.errors import CbtfsError
from cbtfs.files.protocol import FileSystemDamaged
from cbtfs.files.tree import File, GuestTree


@dataclass(slots=True)
class LeftOut:
    """Files that could not be read, and the reasons."""

    items: list[tuple[str, CbtfsError]] = field(default_factory=list)

    def add(self, path: str, reason: CbtfsError) -> None:
        self.items.append((path, reason))


def walk(tree: GuestTree, top: File, left_out: LeftOut) -> Iterator[File]:
    """Yield *top* and all files below it, directories before their files.

    A directory that cannot be read is added to *left_out*.
    """
    pending = [(top, Ancestors())]
    while pending:
        file, above = pending.pop()
        yield file
        if file.is_directory:
            try:
                below = above.with_directory(file)
                children = list(tree.entries(file))
            except CbtfsError as exc:
                left_out.add(file.path, exc)
            else:
                pending += [(child, below) for child in reversed(children)]


@dataclass(frozen=True, slots=True)
class Ancestors:
    """The directories above a file: in a damaged file system, a directory can contain itself."""

    _directories: frozenset[tuple[str, int]] = frozenset()

    def __len__(self) -> int:
        return len(self._directories)

    def with_directory(self, file: File) -> "Ancestors":
        """Return these and *file*, for the files in it.

        Raises:
            FileSystemDamaged: *file* is one of its own ancestors.
        """
        # Directories above the volumes have no inode.
        key = (file.volume.name, file.entry.inode) if file.entry.inode else (file.path, 0)
        if key in self._directories:
            raise FileSystemDamaged(f"{file.path}: the directory contains itself")
        return Ancestors(self._directories | {key})
