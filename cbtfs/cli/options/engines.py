"""Options that choose the engine for the files of guests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.cli.options.context import repository_path
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cbtfs.core.manifest import Manifest
    from cbtfs.files.engine_appliance.engine import Appliance
    from cbtfs.files.engines import Engines

_NAMES: Final = ("auto", "parse", "appliance")
_MAX_KEY_BYTES: Final = 8 << 10


def parse_engine(given: object) -> str:
    """Return the name of an engine, or raise the error of the option."""
    if str(given) not in _NAMES:
        raise typer.BadParameter(f"{str(given)!r} is none of {', '.join(_NAMES)}")
    return str(given)


EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="|".join(_NAMES),
        parser=parse_engine,
        help="parse: a parser in a sandbox. appliance: the kernel of a small VM, which libguestfs "
        "starts. auto: parse, and the appliance for volumes that parse refuses.",
    ),
]
KeyFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--luks-key-file",
        metavar="FILE",
        show_default=False,
        help="File with a passphrase of encrypted (LUKS) volumes, for the appliance. A newline at "
        "its end is ignored. It can be repeated.",
    ),
]
AUTO: Final = "auto"
PARSE: Final = "parse"
APPLIANCE: Final = "appliance"


def engines(context: typer.Context, name: str, key_files: list[Path] | None) -> Engines:
    """Return the engines that the options choose.

    Raises:
        UsageError: a key cannot be read.
    """
    from cbtfs.files.engines import Engine, Engines

    wanted = Engine(name)
    if wanted is Engine.PARSE:
        if key_files:
            raise UsageError(
                "--luks-key-file and --engine parse are mutually exclusive: parse has no keys"
            )
        return Engines(wanted)
    keys = [_key(path) for path in key_files or ()]
    repository = repository_path(context).absolute()

    def start(manifest: Manifest) -> AbstractContextManager[Appliance]:
        # Most commands start no appliance, and its modules take time to load.
        from cbtfs.appliance import ApplianceStarter

        return ApplianceStarter(repository, keys)(manifest)

    return Engines(wanted, start, has_keys=bool(keys))


def _key(path: Path) -> str:
    """Return the passphrase in a file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1).removesuffix(b"\n")
        key = data.decode()
    except OSError as exc:
        raise UsageError(f"--luks-key-file {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        key = ""
    if not key or "\0" in key or len(data) > _MAX_KEY_BYTES:
        raise UsageError(f"--luks-key-file {path}: it has no passphrase, a text of at most 8 KiB")
    return key
