"""Build of the compiled code. pyproject.toml declares everything else about the package."""

from pathlib import Path

from setuptools import Extension, setup

_DIRECTORY = Path("cbtfs", "native")

setup(
    ext_modules=[
        Extension(
            "cbtfs.native._core",
            sources=sorted(str(path) for path in _DIRECTORY.glob("*.c")),
            depends=sorted(str(path) for path in _DIRECTORY.glob("*.h")),
            libraries=["deflate", "zstd"],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror=implicit"],
        )
    ]
)
