"""Options of the commands that boot guests: which verdict passes, and how it is reached."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import duration_parser
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from cbtfs.prove.observe import BootOptions

MinVerdict = Annotated[
    str,
    typer.Option(
        "--min-verdict",
        metavar="V",
        help="Verdict of a boot that passes: agent, script, prompt or settled.",
    ),
]
PromptRe = Annotated[
    str | None,
    typer.Option(
        "--prompt-re",
        metavar="RE",
        show_default="login:",
        help="Regular expression that finds the prompt at the end of the serial output.",
    ),
]
BootTimeout = Annotated[
    float,
    typer.Option(
        "--boot-timeout",
        metavar="T",
        parser=duration_parser(1),
        show_default="10m",
        help="Time for a boot.",
    ),
]


def boot_options(
    least: str, prompt: str | None, seconds: float, script: Path | None, evidence: Path | None
) -> BootOptions:
    """Return the options; UsageError if they do not fit."""
    from cbtfs.prove.observe import ACCEPTABLE, PROMPT, BootOptions

    verdict = next((known for known in ACCEPTABLE if known == least), None)
    if verdict is None:
        raise UsageError(f"unknown --min-verdict {least!r}: use one of {', '.join(ACCEPTABLE)}")
    if verdict == "script" and script is None:
        raise UsageError("--min-verdict script needs --script FILE")
    if script is not None and not (script.is_file() and os.access(script, os.X_OK)):
        raise UsageError(f"--script {script} is not a program: name an executable file")
    try:
        re.compile(prompt or PROMPT)
    except re.error as exc:
        raise UsageError(f"invalid --prompt-re: {exc}") from exc
    return BootOptions(verdict, prompt or PROMPT, seconds, script, evidence)
