"""docs/troubleshooting.md: its commands run, and the program has each quoted message."""

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.make_points import BLOCK, add_point, new_repository

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
OPERATIONS: Final = (ROOT / "docs" / "operations.md").read_text("utf-8")
MESSAGES: Final = [
    " ".join(text.split()) for text in re.findall(r"\*\*`([^`]+)`\*\*", PAGE + OPERATIONS)
]


@cache
def _texts() -> list[str]:
    """Return all texts of the program but docstrings, without the values in them."""
    texts = []
    for path in (ROOT / "cbtfs").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and node not in docstrings:
                texts.append(str(node.value))
    return texts


def _has_message(message: str) -> bool:
    """Return whether one text has the pieces of *message* in order; … is any value."""
    pattern = re.compile(".*".join(map(re.escape, message.split("…"))), re.DOTALL)
    return any(pattern.search(text) for text in _texts())


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_one_of_the_program(message: str) -> None:
    assert _has_message(message)


def test_a_message_that_the_program_lacks_is_noticed() -> None:
    assert len(MESSAGES) > 40
    assert not _has_message("the repository is locked by … and …")


def test_the_first_commands_run_as_printed(tmp_path: Path) -> None:
    add_point(new_repository(tmp_path / "repository"), {"root": b"1" * BLOCK})
    (commands,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(tmp_path), "CBTFS_REPO": f"{tmp_path}/repository"}

    done = subprocess.run(
        ["bash", "-ec", commands],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"^vm .* full ", done.stdout, re.M)
