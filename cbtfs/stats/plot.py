"""Plots of change rate and growth over time, and of the ages of a disk's blocks.

The only user of matplotlib.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from cbtfs.core.moment import parse_moment
from cbtfs.core.names import printable
from cbtfs.errors import CbtfsError, UsageError
from cbtfs.stats.blame import Version, Written
from cbtfs.stats.measure import PointStats

KINDS: Final = (".svg", ".png")
_MIB: Final = 1 << 20
_COLUMNS: Final = 128
_ROWS: Final = 64
"""Cells of a plot of a disk. A cell shows the newest point that wrote in its range."""


def plot(rows: Sequence[PointStats], file: Path) -> None:
    """Plot *rows* to *file*, SVG or PNG by its suffix; UsageError if that is not possible."""
    figure = _new_figure(file)
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
    _save(figure, file)


def plot_ages(versions: Sequence[Version], written: Iterable[Written], file: Path) -> None:
    """Plot the extents of a disk to *file*, coloured by the point that wrote them.

    The disk is cut into rows, as text is into lines. *written* is the result of blame().

    Raises:
        UsageError: the suffix of *file* is not .svg or .png, or matplotlib is not installed.
    """
    figure = _new_figure(file)
    last = versions[-1]
    numbers = {version.point.manifest.point: n for n, version in enumerate(versions)}
    cells = _ROWS * _COLUMNS
    width = max(-(-last.disk.size // cells), 1)
    newest = [float("nan")] * cells
    for item in written:
        if item.is_data or numbers[item.point.manifest.point]:
            number = numbers[item.point.manifest.point]
            for cell in range(item.extent.start // width, -(-item.extent.end // width)):
                if not newest[cell] >= number:
                    newest[cell] = number
    grid = [newest[at : at + _COLUMNS] for at in range(0, cells, _COLUMNS)]
    axes = figure.subplots()
    shape = (0, _COLUMNS, _ROWS * _COLUMNS * width / _MIB, 0)
    image = axes.imshow(
        grid, aspect="auto", interpolation="nearest", extent=shape, vmin=0, vmax=len(versions) - 1
    )
    axes.set_xticks([])
    axes.set_ylabel("offset, MiB")
    axes.set_title(printable(f"{last.point.spelled}, {last.disk.label}").replace("$", r"\$"))
    bar = figure.colorbar(image)
    ticks = sorted({0, (len(versions) - 1) // 2, len(versions) - 1})
    bar.set_ticks(ticks, labels=[versions[n].point.manifest.name for n in ticks])
    bar.set_label("written by the point; white: never written")
    _save(figure, file)


def _new_figure(file: Path) -> Any:
    if file.suffix not in KINDS:
        raise UsageError(f"cannot plot to {file}: use a name that ends in .svg or .png")
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise UsageError("plots need matplotlib: pip install 'cbtfs[plot]'") from exc
    return Figure(figsize=(9, 6), layout="constrained")


def _save(figure: Any, file: Path) -> None:
    try:
        figure.savefig(file)
    except OSError as exc:
        raise CbtfsError(f"cannot write {file}: {exc.strerror}") from exc
