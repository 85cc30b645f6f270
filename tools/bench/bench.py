"""What all rows share: the data, the programs, a folder, and how often to measure."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools.bench.programs import Program
from tools.bench.row import BEFORE, OURS
from tools.bench.servers import mounted
from tools.bench.sizes import Sizes
from tools.bench.stock import Stock


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the bench."""

    folder: Path
    sizes: Sizes
    stock: Stock
    before: Path | None = None
    """A checkout of another version, to be measured beside this one."""

    @property
    def programs(self) -> list[Program]:
        """Every cbtfs to measure, ours first."""
        other = [] if self.before is None else [Program(BEFORE, self.before)]
        return [Program(OURS), *other]

    @property
    def workers(self) -> int:
        return os.cpu_count() or 1

    @contextmanager
    def mounts(self, repository: Path) -> Iterator[dict[str, Path]]:
        """*repository*, mounted by every cbtfs: where, by name."""
        with ExitStack() as stack:
            found = {}
            for program in self.programs:
                at = self.folder / f"mount-{program.name}"
                stack.enter_context(mounted(program, repository, at, self.workers))
                found[program.name] = at
            yield found

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder that is gone afterwards, with all writing done before and after."""
        path = self.folder / "scratch"
        path.mkdir()
        os.sync()
        try:
            yield path
        finally:
            shutil.rmtree(path)
            os.sync()
