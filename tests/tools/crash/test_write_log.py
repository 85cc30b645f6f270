"""The campaign write-log finds a disk that ignores flushes."""

from pathlib import Path

import pytest

from tools.crash import write_log
from tools.crash.verify import Violation

pytestmark = pytest.mark.mounts


def test_a_disk_that_ignores_flushes_loses_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_log, "_FLUSH", 0)

    with pytest.raises(Violation):
        write_log.write_log(tmp_path, 1, 5)
