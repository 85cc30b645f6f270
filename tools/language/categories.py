"""Prose of the project by category."""

import subprocess
from pathlib import Path
from typing import Final

from tools.language.prose import (
    Prose,
    c_prose,
    commit_subjects,
    long_lines,
    plain_prose,
    python_prose,
)

ROOT: Final = Path(__file__).parents[2]
CATEGORIES: Final = (
    "source",
    "messages",
    "c",
    "tools",
    "tests",
    "man",
    "readme",
    "docs",
    "commits",
)
FIRST_COMMIT: Final = "d4762be"
"""Subjects of commits after this one are counted: older ones cannot be rewritten."""


def collect() -> dict[str, list[Prose]]:
    """Return all prose of the checkout by category.

    Messages are the string literals of the package, including help texts. Source, tools and tests
    are comments and docstrings.
    """
    prose: dict[str, list[Prose]] = {category: [] for category in CATEGORIES}
    for name in _files():
        path = ROOT / name
        top = name.partition("/")[0]
        if path.suffix == ".py" and top in ("cbtfs", "tools", "tests"):
            notes, messages = python_prose(path, name=name)
            prose["source" if top == "cbtfs" else top] += notes
            if top == "cbtfs":
                prose["messages"] += messages
        elif path.suffix in (".c", ".h"):
            prose["c"] += c_prose(path, name=name)
        elif name.startswith("contrib/man/"):
            prose["man"] += plain_prose(path, name=name)
        elif name == "README.md":
            prose["readme"] += plain_prose(path, name=name)
        elif path.suffix == ".md":
            prose["docs"] += plain_prose(path, name=name)
    prose["commits"] = commit_subjects(FIRST_COMMIT, root=ROOT)
    return prose


def unwrapped() -> list[str]:
    """Return an error for each long line of a document that is not generated."""
    return [
        line
        for name in _files()
        if name.endswith(".md") and name != "docs/benchmarks/table.md"
        for line in long_lines(ROOT / name, name=name)
    ]


def _files() -> list[str]:
    result = subprocess.run(
        ["git", "ls-files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    return [name for name in result.stdout.splitlines() if (ROOT / name).is_file()]
