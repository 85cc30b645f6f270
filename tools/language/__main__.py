"""Compare the counts of translated English with their limits, or lower the limits.

Usage: python -m tools.language [--show CATEGORY] [--lower]

A count is the number of constructions (constructions.py) per 10,000 words of a category. It must
not exceed the limit of the category in limits.json. A limit that exceeds its count by more than
SLACK must be lowered, and no limit may rise above that of the last commit. Lines of documents have
at most 100 columns.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.language.categories import CATEGORIES, ROOT, collect, unwrapped
from tools.language.constructions import find
from tools.language.prose import Prose, words

LIMITS: Final = Path(__file__).with_name("limits.json")
GOAL: Final = 10
"""Limit of a category that has reached the goal, in constructions per 10,000 words."""
SLACK: Final = 5
"""Maximum difference between a limit and its count."""
_FEW_WORDS: Final = 2500
"""Below this number of words a category may have two constructions, whatever the rate."""


def rate(prose: list[Prose]) -> int:
    """Return constructions per 10,000 words, rounded up; 0 for at most two in a small category."""
    count = sum(len(find(piece.text)) for piece in prose)
    total = sum(words(piece.text) for piece in prose)
    if total < _FEW_WORDS and count <= 2:
        return 0
    return -(-count * 10_000 // max(total, 1))


def problems(rates: dict[str, int], limits: dict[str, int], committed: dict[str, int]) -> list[str]:
    """Return one line per error: a count above its limit, a limit that rose or is too high."""
    lines = []
    for category, count in rates.items():
        limit = limits.get(category, GOAL)
        if count > limit:
            lines.append(
                f"{category}: {count} constructions per 10,000 words, limit {limit}: "
                f"see python -m tools.language --show {category}"
            )
        if limit > committed.get(category, limit):
            lines.append(
                f"{category}: limit {limit} is above the committed limit {committed[category]}"
            )
        if limit > max(count + SLACK, GOAL):
            lines.append(f"{category}: limit {limit}, count {count}: run with --lower")
    return lines


def _committed() -> dict[str, int]:
    """Return the limits of the last commit; empty outside a git checkout."""
    name = LIMITS.relative_to(ROOT).as_posix()
    result = subprocess.run(
        ["git", "show", f"HEAD:{name}"],
        cwd=ROOT,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return dict(json.loads(result.stdout)) if result.returncode == 0 else {}


def _show(prose: list[Prose]) -> None:
    for piece in prose:
        for name, offset in find(piece.text):
            line = piece.line + piece.text.count("\n", 0, offset)
            around = piece.text[max(0, offset - 30) : offset + 40].replace("\n", " ")
            print(f"{piece.path}:{line}: {name}: {around}")


def main() -> int:
    """Compare or lower the limits; return 0 if every count is within its limit."""
    parser = argparse.ArgumentParser(prog="python -m tools.language", description=__doc__)
    parser.add_argument("--show", choices=CATEGORIES, help="list the constructions of a category")
    parser.add_argument("--lower", action="store_true", help="lower limits to the counts")
    arguments = parser.parse_args()
    prose = collect()
    if arguments.show:
        _show(prose[arguments.show])
        return 0
    rates = {category: rate(pieces) for category, pieces in prose.items()}
    limits: dict[str, int] = json.loads(LIMITS.read_text())
    if arguments.lower:
        limits = {c: min(limits.get(c, n), n) if n > GOAL else GOAL for c, n in rates.items()}
        LIMITS.write_text(json.dumps(limits, indent=2) + "\n")
    for category, count in rates.items():
        print(f"{category:10} {count:4} of {limits.get(category, GOAL)}")
    lines = problems(rates, limits, _committed()) + unwrapped()
    for line in lines:
        print(f"language: {line}", file=sys.stderr)
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
