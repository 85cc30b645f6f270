"""All files below a directory of a guest."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cbtfs.errors import CbtfsError
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
    pending = [top]
    while pending:
        file = pending.pop()
        yield file
        if file.is_directory:
            try:
                pending += reversed(list(tree.entries(file)))
            except CbtfsError as exc:
                left_out.add(file.path, exc)
