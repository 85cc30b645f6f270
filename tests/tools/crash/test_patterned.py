"""The second writer of the campaign of overlays finds every write of its last pass that is lost."""

import tempfile
from itertools import count
from pathlib import Path

import pytest

from tests.make_points import MEMORY
from tools.crash.patterned import PatternedWriter
from tools.crash.verify import Violation

BLOCK = 4096
SIZE = 16 * BLOCK


def test_a_block_of_the_pass_before_does_not_count_as_written() -> None:
    with tempfile.TemporaryDirectory(prefix="patterned-", dir=MEMORY) as path:
        file = Path(path, "file")
        file.write_bytes(bytes(SIZE))
        writer = PatternedWriter(file, SIZE, Path(path))
        for number in count(1):
            before = file.read_bytes()
            with writer.running():
                pass
            writer.verify()
            now = file.read_bytes()
            blocks = [n for n in range(0, SIZE, BLOCK) if any(before[n : n + BLOCK])]
            written = [n for n in blocks if now[n : n + BLOCK] != before[n : n + BLOCK]]
            if number > 1 and written:
                break
        assert writer.verified >= 8
        at = written[0]
        file.write_bytes(now[:at] + before[at : at + BLOCK] + now[at + BLOCK :])

        with pytest.raises(Violation, match="wrong blocks"):
            writer.verify()
