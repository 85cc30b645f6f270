"""Change rate and growth over time, drawn. The only user of the plotting library."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cbtfs.core.moment import parse_moment
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, UsageError
from cbtfs.stats.measure import PointStats

KINDS: Final = (".svg", ".png")
_MIB: Final = 1 << 20


def plot(rows: Sequence[PointStats], file: Path) -> None:
    """Draw *rows* into *file*, SVG or PNG by its suffix; UsageError if that cannot be."""
    if file.suffix not in KINDS:
        raise UsageError(f"cannot draw {file}: end its name in .svg or .png")
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise UsageError("drawing takes a plotting library: pip install 'cbtfs[plot]'") from exc
    figure = Figure(figsize=(9, 6), layout="constrained")
    rate, growth = figure.subplots(2, 1, sharex=True)
    for vm in sorted({row.manifest.vm.directory for row in rows}):
        mine = [row for row in rows if row.manifest.vm.directory == vm]
        times = [parse_moment(row.manifest.time) for row in mine]
        name = printable(vm).replace("$", r"\$")
        rate.plot(times, [100 * row.change_rate for row in mine], marker="o", label=name)
    ordered = sorted(rows, key=lambda row: row.manifest.time)
    stored = [row.stored_bytes / _MIB for row in ordered]
    sums = [sum(stored[: n + 1]) for n in range(len(stored))]
    growth.step([parse_moment(row.manifest.time) for row in ordered], sums, where="post")
    rate.set_ylabel("changed, % of the disks")
    growth.set_ylabel("written by ingests, MiB")
    growth.tick_params(axis="x", rotation=30)
    if rows:
        rate.legend()
    try:
        figure.savefig(file)
    except OSError as exc:
        raise CbtfsError(f"cannot write {file}: {exc.strerror}") from exc
