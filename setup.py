"""Build of the compiled code. pyproject.toml declares everything else about the package."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup

_DIRECTORY = Path("cbtfs", "native")
_PACKAGES = (
    "build-essential pkg-config python3-dev libfuse3-dev libdeflate-dev libzstd-dev libssl-dev"
)
"""Debian packages that a build requires; the README has the same line."""
_BUILDS = {"dist_info", "editable_wheel", "bdist_wheel", "build_ext", "develop", "install"}
"""Commands of which pip starts the first before it builds a dependency."""


def _missing() -> list[str]:
    """Return the parts that are missing on this machine; pyfuse3 needs pkg-config and fuse3."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        return ["a C compiler"]
    include = sysconfig.get_path("include")
    flags = shlex.split(os.environ.get("CFLAGS", "") + " " + os.environ.get("CPPFLAGS", ""))
    missing = []
    for header in ("Python.h", "libdeflate.h", "zstd.h", "openssl/evp.h"):
        command = [*compiler, *flags, f"-I{include}", "-E", "-x", "c", "-o", os.devnull, "-"]
        source = f"#include <{header}>\n"
        if subprocess.run(command, input=source, text=True, capture_output=True).returncode:
            missing.append(header)
    if find_spec("pyfuse3") is None:
        if shutil.which("pkg-config") is None:
            missing.append("pkg-config")
        elif subprocess.run(["pkg-config", "--exists", "fuse3"]).returncode:
            missing.append("fuse3/fuse.h")
    return missing


if _BUILDS.intersection(sys.argv) and (parts := _missing()):
    sys.exit(
        f"cannot build cbtfs: {', '.join(parts)} not found; on Debian and Ubuntu, run as root:\n"
        f"apt-get install {_PACKAGES}"
    )

setup(
    ext_modules=[
        Extension(
            "cbtfs.native._core",
            sources=sorted(str(path) for path in _DIRECTORY.glob("*.c")),
            depends=sorted(str(path) for path in _DIRECTORY.glob("*.h")),
            libraries=["crypto", "deflate", "zstd"],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror=implicit"],
        )
    ]
)
