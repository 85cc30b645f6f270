"""Write the manual pages from the program's own help: `python -m tools.manpages`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from cbtfs import __version__
from cbtfs.cli.main import app

FOLDER: Final = Path(__file__).parent.parent / "contrib" / "man"


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    command: Any = typer.main.get_command(app)
    return {f"{name}.1": _page(name, each) for name, each in _commands("cbtfs", command)}


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child in sorted(getattr(command, "commands", {}).values(), key=lambda each: each.name):
        yield from _commands(f"{name}-{child.name}", child)


def _page(name: str, command: Any) -> str:
    words = name.replace("-", " ") if name == "cbtfs" else _spaced(name)
    lines = [
        f'.TH "{name.upper()}" 1 "" "cbtfs {__version__}" "cbtfs"',
        ".SH NAME",
        f"{name} \\- {_escaped(_first_line(command))}",
        ".SH SYNOPSIS",
        f".B {words}",
        _escaped(" ".join(_usage(command))),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    for title, found in (("ARGUMENTS", arguments), ("OPTIONS", options)):
        if found:
            lines.append(f".SH {title}")
            for each in found:
                lines += [".TP", f".B {_escaped(_spelled(each))}", _escaped(_help(each))]
    children = sorted(getattr(command, "commands", {}).values(), key=lambda each: each.name)
    if children:
        lines.append(".SH COMMANDS")
        for child in children:
            lines += [".TP", f".BR {name}-{child.name} (1)", _escaped(_first_line(child))]
    lines += _epilog(command.epilog or "")
    lines += [".SH SEE ALSO"]
    others = ["cbtfs"] if name != "cbtfs" else []
    lines.append(", ".join([f"\\fB{each}\\fR(1)" for each in others] + ["docs/ of the sources"]))
    return "\n".join(lines) + "\n"


def _spaced(name: str) -> str:
    """`cbtfs ingest image` for cbtfs-ingest-image; no command of ours has a dash in it."""
    return name.replace("-", " ")


def _first_line(command: Any) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split()).rstrip(".")


def _usage(command: Any) -> Iterator[str]:
    if any(each.param_type_name == "option" for each in command.params):
        yield "[OPTIONS]"
    for each in command.params:
        if each.param_type_name == "argument":
            yield _spelled(each)
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
    """Blocks that start with a title and a colon are shown line by line."""
    for block in re.split(r"\n?\x08\n", text):
        title, _, rest = block.strip("\n").partition("\n")
        if rest:
            yield f".SH {title.rstrip(':').upper()}"
            yield ".nf"
            yield from (_escaped(line.removeprefix("  ")) for line in rest.split("\n") if line)
            yield ".fi"


def _escaped(text: str) -> str:
    """*text* as roff takes it; a dash stays the one that can be typed."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain


def write(folder: Path) -> None:
    """Write all pages, and remove those of commands that are no more."""
    folder.mkdir(parents=True, exist_ok=True)
    found = pages()
    for old in folder.glob("*.1"):
        if old.name not in found:
            old.unlink()
    for name, text in found.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
