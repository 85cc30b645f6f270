"""All tests that mount run in one process: who mounts or makes namespaces is on the list."""

import re

from tests.conftest import MOUNTING, ROOT

_SIGNS = re.compile(r"unshare|\bserving\(|tools\.crash\b|\bumount\b")
_ELSEWHERE = ("conftest.py", "guest.py", "test_processes.py", "cli/test_main.py")
"""What only names such things."""


def test_every_test_that_mounts_is_listed() -> None:
    files = {path.relative_to(ROOT).as_posix(): path for path in ROOT.rglob("*.py")}
    found = {name for name, path in files.items() if _SIGNS.search(path.read_text())}

    unlisted = {name for name in found if not name.startswith(MOUNTING + _ELSEWHERE)}
    assert unlisted == set()
    assert all(any(name.startswith(each) for name in files) for each in MOUNTING)
