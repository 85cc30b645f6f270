"""Rows for people, as a table in Markdown, and for programs, as one document."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tools.bench.row import OURS, Curve, Goal, Row

_TOP: Final = (
    "",
    "| what | caches | whose | median | spread | ratio | goal | |",
    "|---|---|---|--:|--:|--:|--:|---|",
)


def heading(machine: Mapping[str, str]) -> str:
    """The machine, and the top of the table."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    return "\n".join([*lines, *_TOP])


def render(row: Row) -> str:
    """One row as lines of the table, a line for each contender, and what came with it."""
    extra = [f"{name}: {_number(value)}" for name, value in row.facts.items()]
    extra += [row.note] if row.note else []
    told = [f"| | | {'; '.join(extra)} | | | | | |"] if extra else []
    return "\n".join([*_lines(row), *told])


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
            "" if goal is None else _wanted(row, goal),
            "" if goal is None else ("met" if row.is_met(goal) else "**missed**"),
        )
        yield "| " + " | ".join(cells) + " |"


def _wanted(row: Row, goal: Goal) -> str:
    sign = "≥" if goal.peer is not None or row.is_more_better else "≤"
    return f"{sign} {goal.bound:g}"


def _number(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def page(found: Mapping[str, Any]) -> str:
    """The table of a run that was written down, as a page."""
    machine = ", ".join(f"{name}: {value}" for name, value in found["machine"].items())
    lines = ["# A run of the bench", "", f"`make bench`, the {found['form']} form. {machine}."]
    lines += [f"\nLeft out: {name}: {why}." for name, why in found["left_out"].items()]
    lines += [*_TOP]
    facts = []
    for row in map(_row_of, found["rows"]):
        lines += _lines(row)
        if row.facts:
            told = ", ".join(f"{name} {_number(value)}" for name, value in row.facts.items())
            facts.append(f"- {row.name}: {told}")
    return "\n".join([*lines, "", *facts]) + "\n"


def _row_of(found: Mapping[str, Any]) -> Row:
    return Row(
        found["name"],
        found["unit"],
        found["better"] == "more",
        found["cache"],
        {name: each["samples"] for name, each in found["contenders"].items()},
        [Goal(goal["bound"], goal["peer"]) for goal in found["goals"]],
        found["note"],
        found["facts"],
    )


def _curve(curve: Curve) -> dict[str, Any]:
    return {"figure": curve.figure, "panel": curve.panel, "at": dict(curve.at)}


def document(
    rows: Sequence[Row],
    machine: Mapping[str, str],
    form: str,
    left_out: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "form": form,
        "machine": dict(machine),
        "left_out": dict(left_out or {}),
        "rows": [
            {
                "name": row.name,
                "unit": row.unit,
                "better": "more" if row.is_more_better else "less",
                "cache": row.cache,
                "verdict": row.verdict,
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
