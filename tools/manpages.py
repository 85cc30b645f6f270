"""Generate the manual pages from the help texts of cbtfs: `python -m tools.manpages`."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from cbtfs import __version__
from cbtfs.cli.main import app

FOLDER: Final = Path(__file__).parent.parent / "contrib" / "man"

_Entries = Sequence[tuple[str, str]]
"""Names and descriptions of a section."""

_ENVIRONMENT: Final[Mapping[str, _Entries]] = {
    "": (
        ("CBTFS_REPO", "Repository directory, if --repo is not given."),
        ("CBTFS_CONFIG", "Configuration file, if --config is not given."),
        ("CBTFS_KEY_FILE", "Key file of an encrypted repository, if --key-file is not given."),
        ("CBTFS_PASSPHRASE_FILE", "File with a passphrase, if --passphrase-file is not given."),
        ("CBTFS_STATE", "Parent of the local directories of repositories in buckets."),
        ("CBTFS_TIER_SIZE", "Size of the local copies of a bucket, if --tier-size is not given."),
        ("CBTFS_S3_RETRY", "Time for which a request to a server is repeated, e.g. 30s."),
        ("CBTFS_KEY_COMMAND", "Program that decrypts the key of an encrypted repository."),
    ),
    "server": (
        ("CBTFS_VSPHERE_SERVER", "Server, if --server is not given."),
        ("CBTFS_VSPHERE_USER", "User name, if --user is not given."),
        ("CBTFS_VSPHERE_PASSWORD", "Password, if --password-file is not given."),
    ),
    "time_zone": (("TZ", "Time zone of this machine, for times without an offset."),),
}
"""Variables by the parameter of the commands that read them; "" for every command."""
_FILES: Final[Mapping[str, _Entries]] = {
    "": (
        (
            "~/.config/cbtfs/config.toml",
            "Configuration: the repository, servers, defaults of options, and jobs. "
            "XDG_CONFIG_HOME replaces ~/.config.",
        ),
    ),
    "time_zone": (("/etc/localtime", "Time zone of this machine, if TZ is not set."),),
    "vddk_libdir": (
        ("/opt/vmware-vix-disklib-distrib", "VMware's VDDK, if --vddk-libdir is not given."),
    ),
    "log_file": (
        (
            "~/.local/state/cbtfs/mount.log",
            "Log of the mount, if --log-file is not given. XDG_STATE_HOME replaces ~/.local/state.",
        ),
    ),
}
_REPOSITORY_FILES: Final[_Entries] = (
    ("DIR/repository.json", "Settings of the repository in directory DIR."),
    ("DIR/points/", "A manifest for each restore point; a manifest is its commit."),
    ("DIR/packs/", "The data."),
    ("DIR/catalog/", "An index, which can be rebuilt by cbtfs repair."),
)


def pages() -> dict[str, str]:
    """Return the text of each page by file name."""
    command: Any = typer.main.get_command(app)
    return {f"{name}.1": _page(name, node) for name, node in _commands("cbtfs", command)}


def _children(command: Any) -> list[Any]:
    """Return the subcommands of a command, sorted by name."""
    return sorted(getattr(command, "commands", {}).values(), key=lambda child: child.name)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield a command and all commands below it, with the names of their pages."""
    yield name, command
    for child in _children(command):
        yield from _commands(f"{name}-{child.name}", child)


def _page(name: str, command: Any) -> str:
    lines = [
        f'.TH "{name.upper()}" 1 "" "cbtfs {__version__}" "cbtfs"',
        ".SH NAME",
        f"{name} \\- {_escaped(_first_line(command))}",
        ".SH SYNOPSIS",
        f".B {_spaced(name)}",
        _escaped(" ".join(_usage(command))),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    for title, kind in (("ARGUMENTS", "argument"), ("OPTIONS", "option")):
        parameters = [param for param in command.params if param.param_type_name == kind]
        if parameters:
            lines.append(f".SH {title}")
        for parameter in parameters:
            lines += [".TP", f".B {_escaped(_spelled(parameter))}", _escaped(_help(parameter))]
    children = _children(command)
    if children:
        lines.append(".SH COMMANDS")
        for child in children:
            lines += [".TP", f".BR {name}-{child.name} (1)", _escaped(_first_line(child))]
    used = {"", *_parameters(command)}
    files = _of(_FILES, used) + (list(_REPOSITORY_FILES) if name == "cbtfs" else [])
    for title, entries in (("ENVIRONMENT", _of(_ENVIRONMENT, used)), ("FILES", files)):
        lines.append(f".SH {title}")
        for item, text in entries:
            lines += [".TP", f".B {_escaped(item)}", _escaped(text)]
    lines += _epilog(command.epilog or "")
    lines += [".SH SEE ALSO"]
    others = ["cbtfs"] if name != "cbtfs" else []
    lines.append(", ".join([f"\\fB{page}\\fR(1)" for page in others] + ["docs/ of the sources"]))
    return "\n".join(lines) + "\n"


def _parameters(command: Any) -> set[str]:
    """Return the names of the parameters of a command and of all commands below it."""
    names = {param.name for param in command.params}
    return names.union(*map(_parameters, _children(command)))


def _of(section: Mapping[str, _Entries], used: set[str]) -> list[tuple[str, str]]:
    return [
        entry for parameter, entries in section.items() if parameter in used for entry in entries
    ]


def _spaced(name: str) -> str:
    """Return `cbtfs ingest image` for cbtfs-ingest-image; no command name has a hyphen."""
    return name.replace("-", " ")


def _first_line(command: Any) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split()).rstrip(".")


def _usage(command: Any) -> Iterator[str]:
    if any(param.param_type_name == "option" for param in command.params):
        yield "[OPTIONS]"
    for param in command.params:
        if param.param_type_name == "argument":
            yield _spelled(param)
    if hasattr(command, "commands"):
        yield "COMMAND [ARGS]..."


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {parameter.metavar or parameter.type.name}"


def _help(parameter: Any) -> str:
    text = " ".join((getattr(parameter, "help", None) or "").split())
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        text += f" Default: {shown}."
    elif shown and parameter.default not in (None, False, ()):
        text += f" Default: {parameter.default}."
    return text


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        if paragraph.strip():
            yield ".PP"
            yield _escaped(" ".join(paragraph.split()))


def _epilog(text: str) -> Iterator[str]:
    """Yield a section per block of the epilog: its first line is the title, e.g. `Examples:`."""
    for block in re.split(r"\n?\x08\n", text):
        title, _, rest = block.strip("\n").partition("\n")
        if rest:
            yield f".SH {title.rstrip(':').upper()}"
            yield ".nf"
            yield from (_escaped(line.removeprefix("  ")) for line in rest.split("\n") if line)
            yield ".fi"


def _escaped(text: str) -> str:
    """Return *text* escaped for roff; a hyphen stays an ASCII hyphen."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain


def write(folder: Path) -> None:
    """Write all pages to *folder*, and remove pages of commands that no longer exist."""
    folder.mkdir(parents=True, exist_ok=True)
    current = pages()
    for old in folder.glob("*.1"):
        if old.name not in current:
            old.unlink()
    for name, text in current.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
