"""The compiled part: everything else about the package stands in pyproject.toml."""

from setuptools import Extension, setup

_FOLDER = "cbtfs/native/"

setup(
    ext_modules=[
        Extension(
            "cbtfs.native._core",
            sources=[
                _FOLDER + name for name in ("module.c", "chunk.c", "leaves.c", "fuse.c", "fault.c")
            ],
            depends=[_FOLDER + name for name in ("chunk.h", "leaves.h", "fuse.h", "fault.h")],
            libraries=["deflate", "zstd"],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror=implicit"],
        )
    ]
)
