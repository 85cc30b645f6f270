"""The compiled part: everything else about the package stands in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

_FOLDER = Path("cbtfs", "native")

setup(
    ext_modules=[
        Extension(
            "cbtfs.native._core",
            sources=sorted(str(path) for path in _FOLDER.glob("*.c")),
            depends=sorted(str(path) for path in _FOLDER.glob("*.h")),
            libraries=["deflate", "zstd"],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror=implicit"],
        )
    ]
)
