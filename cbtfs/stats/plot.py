"""Plot of change rate and growth over time. The only user of matplotlib."""

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
    """Plot *rows* to *file*, SVG or PNG by its suffix; UsageError if that is not possible."""
    if file.suffix not in KINDS:
        raise UsageError(f"cannot plot to {file}: use a name that ends in .svg or .png")
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise UsageError("plots need matplotlib: pip install 'cbtfs[plot]'") from exc
    figure = Figure(figsize=(9, 6), layout="constrained")
    rate, growth = figure.subplots(2, 1, sharex=True)
    for vm in sorted({row.manifest.vm.directory for row in rows}):
        of_vm = [row for row in rows if row.manifest.vm.directory == vm]
        times = [parse_moment(row.manifest.time) for row in of_vm]
        name = printable(vm).replace("$", r"\$")
        rate.plot(times, [100 * row.change_rate for row in of_vm], marker="o", label=name)
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
