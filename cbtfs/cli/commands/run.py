"""`cbtfs run`: run a job of the configuration."""

from __future__ import annotations

import io
import json as json_module
import os
import shlex
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.options.arguments import Json, example
from cbtfs.cli.options.context import configuration, global_arguments
from cbtfs.cli.options.defaults import Overrides
from cbtfs.cli.report.output import begin_output, emit, note, say
from cbtfs.config import REPO_VARIABLE
from cbtfs.core.names import printable
from cbtfs.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from cbtfs.config import Job


def add_to(app: typer.Typer) -> None:
    app.command(epilog=example("cbtfs run nightly", "cbtfs --config /etc/cbtfs.toml run weekly"))(
        run
    )


def run(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="JOB", show_default=False, help="Name of a table [job.NAME] of the file."
        ),
    ],
    json: Json = False,
) -> None:
    """Run the commands of a job in the configuration file, in order.

    A step that ends with another code than 0 or 3 (partial success) stops the job, and its code is
    that of the job. Otherwise the code is 3 if a step ended with 3.
    """
    config = configuration(context)
    job = config.jobs.get(name)
    if job is None:
        known = ", ".join(map(printable, config.jobs)) or "none"
        where = f"{config.file} has {known}" if config.file else "there is no configuration file"
        raise UsageError(f"no job {printable(name)!r}: {where}", config.jobs)
    _refuse_unknown_commands(name, job)
    before = global_arguments(context)
    if job.repo is not None and "--repo" not in before:
        before += ["--repo", str(job.repo)]
        if os.environ.get(REPO_VARIABLE, str(job.repo)) not in ("", str(job.repo)):
            note(f"job {name} names the repository {job.repo}: {REPO_VARIABLE} is ignored")
    documents: list[dict[str, Any]] = []
    codes: list[int] = []
    for number, step in enumerate(job.steps, 1):
        note(f"job {name}, step {number} of {len(job.steps)}: {shlex.join(step)}")
        overrides = Overrides(f"job.{printable(name)}", job.defaults)
        code, document = _run_step([*before, *step], overrides, as_json=json)
        codes.append(code)
        documents.append({"command": list(step), "exit": code, "document": document})
        if code not in (ExitCode.DONE, ExitCode.PARTIAL):
            left = len(job.steps) - number
            say(f"job {name} stopped at step {number}: exit code {code}, {left} steps not run")
            break
    begin_output()
    if json:
        emit({"job": name, "steps": documents, "not_run": len(job.steps) - len(codes)})
    if codes[-1] not in (ExitCode.DONE, ExitCode.PARTIAL):
        raise typer.Exit(codes[-1])
    if ExitCode.PARTIAL in codes:
        raise typer.Exit(ExitCode.PARTIAL)


def _refuse_unknown_commands(name: str, job: Job) -> None:
    """Raise UsageError if a step begins with no command, before the first step runs."""
    from cbtfs.cli.lazy_commands import COMMANDS

    for step in job.steps:
        word = next((word for word in step if not word.startswith("-")), None)
        if step and step[0] == word and word not in COMMANDS:
            raise UsageError(f"job {printable(name)}: {printable(word)!r} is no command of cbtfs")


def _run_step(arguments: Sequence[str], overrides: Overrides, *, as_json: bool) -> tuple[int, Any]:
    """Run a command in this process. Return its exit code and, with JSON, its document."""
    from cbtfs.cli.main import main

    if not as_json:
        return main(arguments, overrides), None
    output = io.StringIO()
    with redirect_stdout(output):
        code = main(["--json", *arguments], overrides)
    text = output.getvalue()
    try:
        return code, json_module.loads(text)
    except ValueError:  # a command without --json, or an array that an error has cut off
        return code, text or None
