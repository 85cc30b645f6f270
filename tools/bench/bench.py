"""State that all rows share: data sets, programs, a folder and the sizes of the run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.bench.datasets import Datasets
from tools.bench.machine import drop_caches
from tools.bench.programs import Program
from tools.bench.row import BEFORE, OURS
from tools.bench.servers import mounted
from tools.bench.sizes import Sizes


@dataclass(frozen=True, slots=True)
class Bench:
    """A run of the bench."""

    folder: Path
    sizes: Sizes
    datasets: Datasets
    before: Path | None = None
    """Checkout of another version that is measured in the same run."""

    @property
    def programs(self) -> list[Program]:
        """All versions of cbtfs to measure; this checkout comes first."""
        other = [] if self.before is None else [Program(BEFORE, self.before)]
        return [Program(OURS), *other]

    @property
    def workers(self) -> int:
        return os.cpu_count() or 1

    @contextmanager
    def mounts(self, repository: Path) -> Iterator[dict[str, Path]]:
        """Mount *repository* by each version of cbtfs; yield mount points by program name."""
        with ExitStack() as stack:
            mountpoints = {}
            for program in self.programs:
                mountpoint = self.folder / f"mount-{program.name}"
                stack.enter_context(mounted(program, repository, mountpoint, self.workers))
                mountpoints[program.name] = mountpoint
            yield mountpoints

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder and remove it afterwards; settle before and after."""
        path = self.folder / "scratch"
        path.mkdir()
        self.settle()
        try:
            yield path
        finally:
            shutil.rmtree(path)
            self.settle()

    def settle(self) -> None:
        """Write dirty pages, so that their write-back does not slow the next sample."""
        if self.sizes.is_settled:
            os.sync()

    def drop_caches(self) -> None:
        """Write dirty pages and drop the caches of the kernel."""
        if self.sizes.is_settled:
            drop_caches()
