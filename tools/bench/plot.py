"""Draw the plots of a recorded run as SVG: `python -m tools.bench.plot RUN.json [DIR]`."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cbtfs.errors import CbtfsError, UsageError

READS: Final = "reads.svg"
SCALE: Final = "scale.svg"
_STYLES: Final = {
    "cbtfs": ("#0b6e4f", "o", 2.4),
    "qemu-storage-daemon": ("#c8553d", "s", 1.4),
    "nbdfuse": ("#3d5a80", "^", 1.4),
}
_OTHER: Final = ("#888888", "x", 1.2)
_AXES: Final = {
    "against the number of points": "points in the repository",
    "against the size of the disk": "size of the disk, GiB",
}
_GIB: Final = 1 << 30
_LOOK: Final[Any] = {
    "svg.hashsalt": "cbtfs",  # reproducible output: no random ids
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
}
_BOUNDS: Final = {"first byte after ready": 100.0, "memory of a worker": 150.0}
"""Goals that are drawn as a dashed line."""

Row = Mapping[str, Any]


def draw(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the plots of a run into *folder* and return their paths.

    Raises UsageError if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as exc:
        raise UsageError(
            "cannot draw plots: matplotlib is not installed; run pip install 'cbtfs[plot]'"
        ) from exc
    matplotlib.rcParams.update(_LOOK)
    rows = [row for row in document["rows"] if row["curve"] is not None]
    paths = []
    for name, figure, draw_one in (
        (READS, "reads", _draw_reads),
        (SCALE, "scale", _draw_scale),
    ):
        panels: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            if row["curve"]["figure"] == figure:
                panels[row["curve"]["panel"]].append(row)
        if panels:
            plot = draw_one(panels)
            plot.supxlabel(_source(document), x=0.995, ha="right", fontsize=6, color="#777777")
            plot.savefig(folder / name, metadata={"Date": None})
            paths.append(folder / name)
    return paths


def _source(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    return f"cbtfs {machine['cbtfs']}, {document['form']} form, {machine['processor']}"


def _figure(columns: int, lines: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * columns, 2.7 * lines + 0.5), layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False)


def _draw_reads(panels: Mapping[str, Sequence[Row]]) -> Any:
    """Draw read rate against chain depth, one line per contender."""
    figure, axes = _figure(len(panels), 1)
    for ax, (panel, rows) in zip(axes[0], panels.items(), strict=True):
        lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = defaultdict(list)
        for row in rows:
            for name, contender in row["contenders"].items():
                lines[name].append((row["curve"]["at"][name], contender))
        for name, points in lines.items():
            _line(ax, name, sorted(points, key=lambda point: point[0]))
        ax.set_title(panel, fontsize=9)
        ax.set_ylabel(rows[0]["unit"])
        _scale(ax, "restore points or images in the chain")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _draw_scale(panels: Mapping[str, Sequence[Row]]) -> Any:
    """Draw costs against size, one row of axes per growing quantity: a flat line is best."""
    by_axis: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    for panel, (row, *_) in panels.items():
        name, _, axis = panel.partition("|")
        by_axis[axis].append((name, row))
    figure, axes = _figure(max(map(len, by_axis.values())), len(by_axis))
    for line, (axis, panel_rows) in zip(axes, by_axis.items(), strict=True):
        for ax in line[len(panel_rows) :]:
            ax.set_visible(False)
        for ax, (name, row) in zip(line, panel_rows, strict=False):
            divisor = _GIB if "size" in axis else 1
            at = row["curve"]["at"]
            points = [(at[name] / divisor, costs) for name, costs in row["contenders"].items()]
            _line(ax, "cbtfs", sorted(points, key=lambda point: point[0]))
            if name in _BOUNDS:
                ax.axhline(_BOUNDS[name], color="#c8553d", linestyle="--", linewidth=1)
                ax.annotate(
                    "goal: below", (0.02, _BOUNDS[name]), xycoords=("axes fraction", "data"),
                    fontsize=7, color="#c8553d", va="bottom",
                )  # fmt: skip
            ax.set_title(name, fontsize=9)
            ax.set_ylabel(row["unit"])
            _scale(ax, _AXES[axis])
    return figure


def _line(ax: Any, name: str, points: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
    """Draw medians as a line, and the range of the samples as error bars."""
    color, marker, width = _STYLES.get(name, _OTHER)
    xs = [x for x, _ in points]
    medians = [result["median"] for _, result in points]
    below = [result["median"] - min(result["samples"]) for _, result in points]
    above = [max(result["samples"]) - result["median"] for _, result in points]
    ax.errorbar(
        xs, medians, [below, above], label=name, color=color, marker=marker, markersize=4,
        linewidth=width, elinewidth=0.8, capsize=2,
    )  # fmt: skip


def _scale(ax: Any, label: str) -> None:
    from matplotlib.ticker import FuncFormatter

    ax.set_xscale("log")
    ax.set_xticks([x for line in ax.containers for x in line.lines[0].get_xdata()])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
    ax.set_xlabel(label)
    ax.set_ylim(0, ax.get_ylim()[1] * 1.05)


def main(arguments: Sequence[str]) -> int:
    """Draw the plots of a recorded run and return the exit status."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    run = Path(arguments[0])
    try:
        document = json.loads(run.read_bytes())
        for path in draw(document, Path(arguments[1]) if arguments[1:] else run.parent):
            print(path)
    except (OSError, ValueError) as exc:
        print(f"plot: cannot read {run}: {exc}", file=sys.stderr)
        return 1
    except CbtfsError as exc:
        print(f"plot: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
