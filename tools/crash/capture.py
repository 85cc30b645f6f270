"""An ingest run of a crash campaign."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.ingest.inputs import DiskInput, PointOptions, VmInput
from cbtfs.ingest.plan import Want
from cbtfs.ingest.point import commit_point, take_point
from cbtfs.source.base import DiskSource
from cbtfs.source.image import ImageSource
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.store.repository import writing
from tools.crash.child import Send, Work

DISK: Final = "D"
LOCK_WAIT: Final = 10.0
"""Timeout in seconds; the kernel releases the lock of a killed process after its exit."""


@dataclass(frozen=True, slots=True)
class IngestRun:
    """Input of a run: a version of the image, and its change list."""

    repository: Path
    image: Path
    version: int
    want: Want
    changes: ChangeList | None
    since: PointId | None = None

    def source(self) -> DiskSource:
        source = ImageSource(self.image)
        return source if self.changes is None else ListedSource(source, self.changes, self.since)

    def work(self, prepare: Callable[[Send], None] = lambda send: None) -> Work:
        """Return the run as work of a child; it acknowledges the point after the commit.

        The child calls *prepare* first, e.g. to install a trap.
        """

        def run(send: Send) -> None:
            prepare(send)
            send({"begun": self.version})
            with writing(self.repository, lock_wait=LOCK_WAIT) as repository:
                objects = repository.object_writer()
                try:
                    with closing(self.source()) as source:
                        taken = take_point(
                            repository,
                            objects,
                            VmInput("vm"),
                            [DiskInput(DISK, source, DISK)],
                            PointOptions(datetime.now(UTC), self.want),
                        )
                        manifest = commit_point(
                            repository, objects, taken, {"version": self.version}
                        )
                    send({"point": manifest.point})
                finally:
                    objects.close()

        return run
