"""The manual lists every reason for a full."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
REASONS = {
    "cbtfs/source/vsphere/cbt/trust.py": ("distrust", "_new_epoch", "foreign_snapshots"),
    "cbtfs/source/vsphere/snapshots/reverts.py": ("reverted_since",),
    "cbtfs/source/vsphere/cbt/changed_areas.py": ("_page", "_invalid"),
    "cbtfs/source/vsphere/cbt/readiness.py": ("make_ready", "enabling_obstacle", "untracked_disk"),
    "cbtfs/ingest/vsphere/changes.py": ("_revert",),
    "cbtfs/ingest/plan.py": ("make_plan",),
    "cbtfs/ingest/distrust.py": ("reason_of", "missed_blocks"),
}
NO_REASON = (
    "change tracking enabled",  # a note
    "QueryChangedDiskAreas",
    "read events",
    "its virtual hardware",  # in the manual with its NN
    "changes since",  # of an incremental
    "it is a template, which has no snapshots",  # an error: nothing is read
    "it has no disk",
)


def _function(module: str, name: str) -> ast.FunctionDef:
    tree = ast.parse((ROOT / module).read_text())
    (function,) = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    return function


def _texts(function: ast.FunctionDef) -> Iterator[str]:
    """Yield the texts in a function, each up to its first value."""
    doc = ast.get_docstring(function, clean=False)
    inner = {
        part
        for node in ast.walk(function)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(function):
        first = node.values[0] if isinstance(node, ast.JoinedStr) else node
        if node in inner or not isinstance(first, ast.Constant):
            continue
        text = first.value
        if isinstance(text, str) and text != doc and len(text.split()) > 1:
            yield text.strip()


def _reasons() -> list[str]:
    return sorted(
        {
            text
            for module, names in REASONS.items()
            for name in names
            for text in _texts(_function(module, name))
            if not text.startswith(NO_REASON)
        }
    )


@pytest.mark.parametrize("reason", _reasons())
def test_the_manual_lists_a_reason(reason: str) -> None:
    page = (ROOT / "docs" / "vsphere.md").read_text()
    section = page[
        page.index("## Why a disk was read whole") : page.index("## Timeouts and retries")
    ]

    assert reason.partition(": ")[0] in section or reason in section


def test_reasons_are_found() -> None:
    assert len(_reasons()) > 15
