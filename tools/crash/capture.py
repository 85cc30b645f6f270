"""One run of an ingest, as it is killed, and the points that it may leave."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.core.ids import PointId
from cbtfs.ingest.plan import Want
from cbtfs.ingest.point import DiskInput, VmInput, take_point
from cbtfs.source.base import DiskSource
from cbtfs.source.image import ImageSource
from cbtfs.source.listed import ChangeList, ListedSource
from cbtfs.store.repository import writing
from tools.crash.child import Send, Work

DISK: Final = "D"
LOCK_WAIT: Final = 10.0
"""Seconds; the lock of a killed run is free as soon as the kernel has buried it."""


@dataclass(frozen=True, slots=True)
class Capture:
    """What one run captures: a version of the image, and what it is told of its changes."""

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
        """The run, as a child does it: it acknowledges the point once it is committed.

        *prepare* comes first: a trap, perhaps.
        """

        def run(send: Send) -> None:
            prepare(send)
            send({"begun": self.version})
            with writing(self.repository, lock_wait=LOCK_WAIT) as repository:
                objects = repository.object_writer()
                try:
                    with closing(self.source()) as source:
                        manifest = take_point(
                            repository,
                            objects,
                            VmInput("vm", metadata={"version": self.version}),
                            [DiskInput(DISK, source, DISK)],
                            moment=datetime.now(UTC),
                            want=self.want,
                        )
                    send({"point": manifest.point})
                finally:
                    objects.close()

        return run
