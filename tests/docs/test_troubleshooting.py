"""docs/troubleshooting.md: the program has each quoted message, and the commands run."""

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
MESSAGES: Final = [" ".join(text.split()) for text in re.findall(r"\*\*`([^`]+)`\*\*", PAGE)]
VALUE: Final = "\0"
"""Replaces a value in a text of the program."""


@cache
def _texts() -> str:
    """Return all texts of the program, one per line, with VALUE in place of values."""
    texts = []
    for path in (ROOT / "cbtfs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    str(p.value) if isinstance(p, ast.Constant) else VALUE for p in node.values
                ]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%(?:\.\d)?[sdfr]", VALUE, node.value))
    return "\n".join(text.replace("\n", " ") for text in texts)


def _pattern(message: str) -> str:
    """Return a regular expression of *message*, in which … is a value or any text around one."""
    pieces = [re.escape(piece) for piece in message.split("…")]
    return f"[^\n]*{VALUE}?[^\n]*".join(pieces)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_one_of_the_program(message: str) -> None:
    assert re.search(_pattern(message), _texts())


def test_a_message_that_the_program_lacks_is_noticed() -> None:
    assert len(MESSAGES) > 40
    assert not re.search(_pattern("the repository is locked by … and …"), _texts())


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
    assert re.search(r"^vm +\S+ +full", done.stdout, re.M)
