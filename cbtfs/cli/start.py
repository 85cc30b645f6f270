"""Entry points of the installed programs, and the isolation of the process.

Until isolate() has run, only modules that the interpreter has loaded itself are imported: whatever
else is imported could come from the current directory or from PYTHONPATH.
"""

import os
import sys


def open_standard_streams() -> None:
    """Open the null device on descriptors 0 to 2 where they are closed.

    Otherwise the next open file gets such a descriptor, and terminal output is written into it.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is fd
            os.set_inheritable(fd, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))


def isolate() -> None:
    """Take modules and programs only from where the administrator put them.

    PYTHONPATH, and the current directory where `python -m` added it, are removed from the search
    path of modules; directories of the installation stay. PATH loses its relative entries: libfuse
    looks up fusermount3 there.
    """
    named = os.environ.pop("PYTHONPATH", None)
    dropped = set() if named is None else {_absolute(folder) for folder in named.split(os.pathsep)}
    dropped -= _installed()
    if _is_run_as_module() and not sys.flags.safe_path and sys.path[0] not in _installed():
        del sys.path[0]
    sys.path[:] = [folder for folder in sys.path if os.path.isabs(folder) and folder not in dropped]
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join(filter(os.path.isabs, folders))


def _absolute(path: str) -> str:
    """Return *path* as the module site spells it in sys.path."""
    try:
        return os.path.abspath(path)
    except OSError:  # the current directory was removed
        return path


def _installed() -> set[str]:
    """Return the directories of the installation: of this package, the library, site packages."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(_absolute(__file__))))
    site = sys.modules.get("site")
    return {package, os.path.dirname(os.__file__), *(site.getsitepackages() if site else ())}


def _is_run_as_module() -> bool:
    """Whether the program was started by `python -m`, which adds the current directory."""
    return getattr(sys.modules.get("__main__"), "__spec__", None) is not None


def run() -> None:
    """Run the `cbtfs` command."""
    open_standard_streams()
    isolate()
    from cbtfs.cli.entry import run as run_main

    run_main()


def mount() -> None:
    """Run `mount.cbtfs`."""
    open_standard_streams()
    isolate()
    from cbtfs.cli.commands.mount_helper import run as run_mount

    run_mount()
