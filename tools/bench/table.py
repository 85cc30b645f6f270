"""Output of rows: a Markdown table for people, a JSON document for programs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tools.bench.row import OURS, Curve, Goal, Row

_TOP: Final = (
    "",
    "| measurement | caches | contender | median | spread | ratio | goal | |",
    "|---|---|---|--:|--:|--:|--:|---|",
)


def heading(machine: Mapping[str, str]) -> str:
    """Return the description of the machine and the head of the table."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    return "\n".join([*lines, *_TOP])


def render(row: Row) -> str:
    """Return the table lines of a row: one per contender, then its facts and note."""
    extra = [f"{name}: {_number(value)}" for name, value in row.facts.items()]
    extra += [row.note] if row.note else []
    facts = [f"| | | {'; '.join(extra)} | | | | | |"] if extra else []
    return "\n".join([*_lines(row), *facts])


def _lines(row: Row) -> Iterator[str]:
    goals = {goal.peer: goal for goal in row.goals}
    for name in row.samples:
        goal = goals.get(None if name == OURS else name)
        is_first = name == next(iter(row.samples))
        cells = (
            f"{row.name}, {row.unit}" if is_first else "",
            row.cache if is_first else "",
            name,
            _number(row.median(name)),
            f"{row.spread(name):.0%}",
            "" if name == OURS else f"{row.ratio(name):.2f}",
            "" if goal is None else _bound(row, goal),
            "" if goal is None else ("met" if row.is_met(goal) else "**missed**"),
        )
        yield "| " + " | ".join(cells) + " |"


def _bound(row: Row, goal: Goal) -> str:
    sign = "≥" if goal.peer is not None or row.is_higher_better else "≤"
    return f"{sign} {goal.bound:g}"


def _number(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def page(run: Mapping[str, Any]) -> str:
    """Return the Markdown page of a recorded run."""
    machine = ", ".join(f"{name}: {value}" for name, value in run["machine"].items())
    lines = ["# Benchmark run", "", f"`make bench`, {run['form']} form. {machine}."]
    lines += [f"\nNot measured: {name}: {why}." for name, why in run["left_out"].items()]
    lines += [*_TOP]
    facts = []
    for row in map(_row_of, run["rows"]):
        lines += _lines(row)
        if row.facts:
            figures = ", ".join(f"{name} {_number(value)}" for name, value in row.facts.items())
            facts.append(f"- {row.name}: {figures}")
    return "\n".join([*lines, "", *facts]) + "\n"


def _row_of(row: Mapping[str, Any]) -> Row:
    return Row(
        row["name"],
        row["unit"],
        row["better"] == "more",
        row["cache"],
        {name: contender["samples"] for name, contender in row["contenders"].items()},
        [Goal(goal["bound"], goal["peer"]) for goal in row["goals"]],
        row["note"],
        row["facts"],
    )


def _curve(curve: Curve) -> dict[str, Any]:
    return {"figure": curve.figure, "panel": curve.panel, "at": dict(curve.at)}


def document(
    rows: Sequence[Row],
    machine: Mapping[str, str],
    form: str,
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the JSON document of a run."""
    return {
        "form": form,
        "machine": dict(machine),
        "left_out": dict(left_out or {}),
        "rows": [
            {
                "name": row.name,
                "unit": row.unit,
                "better": "more" if row.is_higher_better else "less",
                "cache": row.cache,
                "verdict": row.result,
                "note": row.note,
                "facts": dict(row.facts),
                "curve": None if row.curve is None else _curve(row.curve),
                "goals": [
                    {"peer": g.peer, "bound": g.bound, "met": row.is_met(g)} for g in row.goals
                ],
                "contenders": {
                    name: {
                        "median": row.median(name),
                        "spread": round(row.spread(name), 4),
                        "ratio": None if name == OURS else round(row.ratio(name), 4),
                        "samples": list(row.samples[name]),
                    }
                    for name in row.samples
                },
            }
            for row in rows
        ],
    }
