"""Prose of a file: comments, docstrings, messages, paragraphs; subjects of commits."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_MIN_MESSAGE_WORDS: Final = 3
MAX_COLUMNS: Final = 100
"""Maximum length of a line in documents."""


@dataclass(frozen=True, slots=True)
class Prose:
    """A piece of text with its path and line."""

    path: str
    line: int
    text: str


def words(text: str) -> int:
    """Return the number of words."""
    return len(_WORD.findall(text))


def python_prose(path: Path, *, name: str) -> tuple[list[Prose], list[Prose]]:
    """Return comments and docstrings of a Python file, and string literals of 3 or more words."""
    source = path.read_text()
    tree = ast.parse(source)
    docstrings = {id(node): node for node in _docstrings(tree)}
    notes = [Prose(name, node.lineno, str(node.value)) for node in docstrings.values()]
    notes += _comments(source, name)
    return notes, _messages(tree, docstrings.keys(), name)


def _messages(tree: ast.AST, docstrings: Set[int], name: str) -> list[Prose]:
    """Return string literals and f-strings of at least three words."""
    texts: list[tuple[ast.JoinedStr | ast.Constant, str]] = [
        (node, "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant)))
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
    ]
    covered = docstrings | {
        id(part) for node, _ in texts if isinstance(node, ast.JoinedStr) for part in node.values
    }
    texts += [
        (node, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in covered
    ]
    return [
        Prose(name, node.lineno, text) for node, text in texts if words(text) >= _MIN_MESSAGE_WORDS
    ]


def _docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield string expressions that are statements: docstrings of all kinds."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text


def _comments(source: str, name: str) -> list[Prose]:
    """Return the comments; those on consecutive lines are one text."""
    blocks: list[Prose] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        text = token.string.lstrip("#: ")
        line = token.start[0]
        if line == last + 1:
            blocks[-1] = Prose(name, blocks[-1].line, f"{blocks[-1].text}\n{text}")
        else:
            blocks.append(Prose(name, line, text))
        last = line
    return blocks


def c_prose(path: Path, *, name: str) -> list[Prose]:
    """Return the comments of a C file."""
    source = path.read_text()
    return [
        Prose(
            name, source.count("\n", 0, match.start()) + 1, re.sub(r"(?m)^\s*\*", "", match[0][2:])
        )
        for match in re.finditer(r"/\*.*?\*/|//[^\n]*", source, re.DOTALL)
    ]


def plain_prose(path: Path, *, name: str) -> list[Prose]:
    """Return the paragraphs of a manual page or Markdown document, without code blocks."""
    text = path.read_text()
    text = re.sub(r"(?ms)^```.*?^```", lambda match: "\n" * match[0].count("\n"), text)
    text = re.sub(r"(?m)^\.(?:TH|SH|TP|B|I|PP|RS|RE|nf|fi|EX|EE)\b", "", text)
    pieces, line = [], 1
    for block in re.split(r"(\n\s*\n)", text):
        if block.strip():
            pieces.append(Prose(name, line, block))
        line += block.count("\n")
    return pieces


def long_lines(path: Path, *, name: str) -> list[str]:
    """Return an error for each line of a Markdown document that exceeds MAX_COLUMNS.

    Code and tables are exempt: they cannot be wrapped.
    """
    text = re.sub(r"(?ms)^```.*?^```", lambda match: "\n" * match[0].count("\n"), path.read_text())
    return [
        f"{name}:{number}: {len(line)} columns: wrap at {MAX_COLUMNS}"
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > MAX_COLUMNS and not line.startswith("|")
    ]


def commit_subjects(since: str, *, root: Path) -> list[Prose]:
    """Return the subjects of the commits after *since*."""
    result = subprocess.run(
        ["git", "log", "--no-merges", "--abbrev=7", "--format=%h %s", f"{since}..HEAD"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    lines = (line.partition(" ") for line in result.stdout.splitlines())
    return [Prose(commit, 1, subject) for commit, _, subject in lines]
