"""Rows for people, as a table in Markdown, and for programs, as one document."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.bench.row import OURS, Goal, Row


def heading(machine: Mapping[str, str]) -> str:
    """The machine, and the top of the table."""
    lines = [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", "| what | caches | whose | median | spread | ratio | goal | |"]
    lines += ["|---|---|---|--:|--:|--:|--:|---|"]
    return "\n".join(lines)


def render(row: Row) -> str:
    """One row as lines of the table, a line for each contender."""
    return "\n".join(_lines(row))


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
    extra = [f"{name}: {_number(value)}" for name, value in row.facts.items()]
    extra += [row.note] if row.note else []
    if extra:
        yield f"| | | {'; '.join(extra)} | | | | | |"


def _wanted(row: Row, goal: Goal) -> str:
    sign = "≥" if goal.peer is not None or row.is_more_better else "≤"
    return f"{sign} {goal.bound:g}"


def _number(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def document(rows: Sequence[Row], machine: Mapping[str, str], form: str) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "form": form,
        "machine": dict(machine),
        "rows": [
            {
                "name": row.name,
                "unit": row.unit,
                "better": "more" if row.is_more_better else "less",
                "cache": row.cache,
                "verdict": row.verdict,
                "note": row.note,
                "facts": dict(row.facts),
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
