"""The tests of the compiled code pass under gcc's address and undefined-behaviour sanitizers."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "cbtfs" / "native"
TESTS = [
    ROOT / "tests" / "native" / name
    for name in (
        "test_chunks.py",
        "test_compare.py",
        "test_copies.py",
        "test_crc32c.py",
        "test_digests.py",
        "test_nodes.py",
        "test_requests.py",
        "test_seeks.py",
        "test_slices.py",
    )
]

_RUN = """
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
name, (path, *tests) = "cbtfs.native._core", sys.argv[1:]
loader = ExtensionFileLoader(name, path)
module = sys.modules[name] = module_from_spec(spec_from_loader(name, loader))
loader.exec_module(module)
import cbtfs.native, pytest
assert cbtfs.native.Leaf is module.Leaf
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *tests]))
"""


def _gcc(*arguments: str | Path) -> str:
    done = subprocess.run(["gcc", *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_sanitizers_report_nothing(tmp_path: Path) -> None:
    library = tmp_path / "_core.so"
    _gcc(
        *("-shared", "-fPIC", "-g", "-O1", "-std=gnu11", "-fsanitize=address,undefined"),
        *("-fno-sanitize-recover=all", f"-I{sysconfig.get_path('include')}", "-o", library),
        *sorted(SOURCES.glob("*.c")),
        *("-lcrypto", "-ldeflate", "-lzstd"),
    )
    done = subprocess.run(
        [sys.executable, "-c", _RUN, library, *TESTS],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_PRELOAD": _gcc("-print-file-name=libasan.so"),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python frees part of its memory only at exit
            "PYTHONMALLOC": "malloc",
        },
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
