"""A process that holds a secret dumps no core."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

_HOLDING = """
import ctypes, json, os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
from cbtfs.source.secret import Secret
before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
secret = Secret("a secret")
after = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
print(json.dumps([before, after, resource.getrlimit(resource.RLIMIT_CORE)]), flush=True)
os.kill(os.getpid(), signal.SIGABRT)
"""


def test_a_process_with_a_secret_dumps_no_core(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HOLDING],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == -signal.SIGABRT
    assert json.loads(done.stdout) == [1, 0, [0, 0]]
    assert list(tmp_path.iterdir()) == []
