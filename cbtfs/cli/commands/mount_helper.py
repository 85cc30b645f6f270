"""`mount.cbtfs`: the helper of mount(8) for file systems of type cbtfs, as in /etc/fstab."""

import sys
from collections.abc import Sequence
from typing import Final

from cbtfs.cli.main import main
from cbtfs.cli.report.output import say

_USAGE: Final = 1
_FAILED: Final = 32
"""Exit codes of mount(8)."""
_WORDS: Final = """\
defaults ro rw auto noauto user nouser users owner group nosuid nodev noexec suid dev exec async
relatime noatime nofail _netdev"""
_SILENT: Final = frozenset(_WORDS.split())
"""Options of any file system, ignored here: the mount is always read-only."""


def arguments(given: Sequence[str]) -> list[str]:
    """Return the arguments of `cbtfs` for `mount.cbtfs REPO MNT [-sfnv] [-o OPTIONS]`.

    ValueError if *given* is invalid.
    """
    places: list[str] = []
    options: list[str] = []
    rest = list(given)
    while rest:
        item = rest.pop(0)
        if item in ("-o", "-t", "-N") and rest:
            value = rest.pop(0)
            options += value.split(",") if item == "-o" else []
        elif item.startswith("-"):
            if not set(item[1:]) <= set("sfnv"):
                raise ValueError(f"unknown option {item}")
        else:
            places.append(item)
    if len(places) != 2:
        raise ValueError(
            "usage: mount.cbtfs REPO MNT [-o workers=N,allow_other,engine=E,log_file=FILE]"
        )
    return [
        "--quiet",
        "--repo",
        places[0],
        "mount",
        places[1],
        *map(_translated, filter(_counts, options)),
    ]


def _counts(option: str) -> bool:
    is_comment = option.startswith(("x-", "X-", "comment="))
    return bool(option) and option not in _SILENT and not is_comment


def _translated(option: str) -> str:
    name, _, value = option.partition("=")
    if option == "allow_other":
        return "--allow-other"
    if name in ("workers", "log_file", "engine") and value:
        return f"--{name.replace('_', '-')}={value}"
    raise ValueError(f"unknown mount option {option}: use workers, allow_other, engine or log_file")


def run() -> None:
    """The entry point of mount.cbtfs."""
    if "-f" in sys.argv[1:]:
        sys.exit(0)  # mount --fake
    try:
        command = arguments(sys.argv[1:])
    except ValueError as exc:
        say(str(exc))
        sys.exit(_USAGE)
    sys.exit(_FAILED if main(command) else 0)
