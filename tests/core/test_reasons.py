"""Reasons in one word: every reason that the documents know has one."""

import re
from pathlib import Path

import pytest

from cbtfs.core.reasons import OTHER, class_of

PAGE = (Path(__file__).parents[2] / "docs" / "vsphere.md").read_text("utf-8")
TABLE = PAGE.partition("## Why a disk was read whole")[2].partition("\n## ")[0]
DOCUMENTED = re.findall(r"^\| `(.*?)` \|", TABLE, re.M)


def test_the_table_is_found() -> None:
    assert len(DOCUMENTED) > 20


@pytest.mark.parametrize("reason", DOCUMENTED)
def test_every_documented_reason_has_a_word(reason: str) -> None:
    assert class_of(reason) != OTHER
    assert class_of(f"compared by digest: {reason}") == class_of(reason)


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("change tracking missed 7 blocks", "audit"),
        ("compared by digest: no change list", "no_list"),
        ("compared by digest: x is damaged, it may be this disk's newest", "base_damaged"),
        (
            "compared by digest: the manifest of this disk's newest point, t (x), is missing",
            "base_missing",
        ),
        ("the sun was in its eyes", OTHER),
    ],
)
def test_others(reason: str, word: str) -> None:
    assert class_of(reason) == word
