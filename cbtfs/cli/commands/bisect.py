"""`cbtfs bisect`: find the first restore point at which a command fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs.cli.options.arguments import LOCAL, Json, TimeZone, example
from cbtfs.cli.options.booting import BootTimeout, MinVerdict, PromptRe, boot_options
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.report.names import resolved
from cbtfs.cli.report.output import emit, note, print_lines
from cbtfs.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from cbtfs.bisect.find import Found, Question, Run
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.bisect import Search
    from cbtfs.listing import Point


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs bisect web01 -- e2fsck -fn {}",
            "cbtfs bisect web01 --disk data --good web01@-30d -- grep -q 'Invoice 4711' {}",
            "cbtfs bisect web01 --log search.log -- xfs_repair -n {point}/slices/root.p2.raw",
            "cbtfs bisect web01 -- grep -q '^PermitRootLogin no' {files}/etc/ssh/sshd_config",
            "cbtfs bisect web01 --boot -- true",
        )
    )(bisect)


def bisect(
    context: typer.Context,
    vm: Annotated[str, typer.Argument(metavar="VM", show_default=False, help="VM to search.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND...",
            show_default=False,
            help="Program and arguments. {} is the raw file of the disk at a point, {files} the "
            "directory of the guest's files, {point} that of the point in a mount, with all disks "
            "and slices/; with --boot, {serial}, {agent} and {qmp} are sockets of the guest.",
        ),
    ] = None,
    disk: Annotated[
        str | None,
        typer.Option(
            metavar="D", show_default="the only disk", help="Label or id of the disk for {}."
        ),
    ] = None,
    good: Annotated[
        str | None,
        typer.Option(
            metavar="POINT", show_default="the oldest point", help="Point where COMMAND passes."
        ),
    ] = None,
    bad: Annotated[
        str | None,
        typer.Option(
            metavar="POINT", show_default="the newest point", help="Later point where it fails."
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POINT", show_default=False, help="Point to leave out; may be repeated."
        ),
    ] = None,
    boot: Annotated[
        bool,
        typer.Option(
            "--boot",
            help="Boot the guest of each point, without a network, before COMMAND runs. A guest "
            "that does not reach --min-verdict is bad.",
        ),
    ] = False,
    min_verdict: MinVerdict = "prompt",
    prompt_re: PromptRe = None,
    boot_timeout: BootTimeout = 600.0,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Append results to this file, and replay those that it has: a search that was "
            "interrupted continues.",
        ),
    ] = None,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Find the first restore point at which a command fails.

    COMMAND runs on points of a private mount, as in 'git bisect run': exit code 0 means good, 125
    skip, any other up to 127 bad, and 128 or more ends the search. Both ends are checked first,
    then every run halves the rest: 12 runs for 1,000 points. A run that reads damaged data ends the
    search with exit code 20 or 21, because its result is unknown. If skipped points leave several
    candidates, all are listed and the exit code is 3.

    With --boot, the writes of a guest go to temporary images, and the point does not change. The
    variables CBTFS_SERIAL, CBTFS_AGENT and CBTFS_QMP have the paths of the sockets, too.

    Output of COMMAND goes to standard error. Processes that it leaves behind are killed.
    """
    from cbtfs.bisect.find import Request, Tester, question_of
    from cbtfs.bisect.log import opened
    from cbtfs.listing import current_clock, find_point, find_vm
    from cbtfs.restore.disk import refuse_inside
    from cbtfs.store.repository import reading

    if not command:
        raise UsageError("no command given: use bisect VM -- COMMAND, e.g. -- e2fsck -fn {}")
    if min_verdict == "script":
        raise UsageError("--min-verdict script is that of prove: COMMAND is the script of bisect")
    options = boot_options(min_verdict, prompt_re, boot_timeout, None, None)
    booting = options if boot else None
    path, clock = readable_path(context), current_clock(time_zone)
    if log is not None:
        refuse_inside(path, log)
    with reading(path) as repository:
        with repository.catalog.view() as view:
            vm_id = find_vm(view, vm).id
        good_end, bad_end = (
            None if spec is None else find_point(repository, spec, clock) for spec in (good, bad)
        )
        left_out = frozenset(
            find_point(repository, spec, clock).manifest.point for spec in skip or ()
        )
        request = Request(vm_id, command, disk, good_end, bad_end, left_out, booting)
        question = question_of(repository, request)
        with opened(log, question.key, question.words) as results:
            found = Tester(repository, question, results, _say_run).find()
    if json:
        emit(_document(question, found))
    else:
        print_lines(_lines(found))
    if found.first_bad is None:
        raise typer.Exit(ExitCode.PARTIAL)


def _say_run(run: Run, search: Search | None) -> None:
    left = 0 if search is None else len(search.untested)
    rest = "" if search is None else f"; {left} point{'s'[left == 1 :]} left"
    note(f"{run.point.spelled}: {run.result} ({_reason(run)}){rest}")


def _reason(run: Run) -> str:
    if run.reason is not None:
        return f"its files cannot be read: {run.reason}"
    if run.seconds is None:
        return "from the log"
    if run.code is None and run.guest is not None:
        return f"guest {run.guest.verdict}: {run.guest.text}, {run.seconds:.1f} s"
    guest = "" if run.guest is None else f"guest {run.guest.verdict}, "
    return f"{guest}exit code {run.code}, {run.seconds:.1f} s"


def _lines(found: Found) -> Sequence[str]:
    good = f"last good point:  {resolved(found.last_good)}"
    if found.first_bad is not None:
        return [good, f"first bad point:  {resolved(found.first_bad)}"]
    skipped = "the first bad point is one of these; those before the last were skipped:"
    return [good, skipped, *(f"  {resolved(point)}" for point in found.candidates)]


def _document(question: Question, found: Found) -> Document:
    disk = question.disks[-1]
    return {
        "vm": question.points[-1].manifest.vm.id,
        "disk": None if disk is None else disk.label,
        "command": list(question.command),
        "points": len(question.points),
        "last_good": _of(found.last_good),
        "first_bad": None if found.first_bad is None else _of(found.first_bad),
        "candidates": [_of(point) for point in found.candidates],
        "runs": [
            {
                **_of(run.point),
                "result": run.result,
                "exit": run.code,
                "seconds": None if run.seconds is None else round(run.seconds, 3),
                "verdict": None if run.guest is None else run.guest.verdict,
            }
            for run in found.runs
        ],
    }


def _of(point: Point) -> Document:
    manifest = point.manifest
    return {"point": manifest.point, "time": manifest.time, "name": manifest.name}
