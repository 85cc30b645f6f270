"""`cbtfs prove`: test that restore points work, and record the result."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.cli.options.arguments import (
    LOCAL,
    Json,
    LockWait,
    TimeZone,
    duration_parser,
    example,
)
from cbtfs.cli.options.booting import BootTimeout, MinVerdict, PromptRe, boot_options
from cbtfs.cli.options.context import readable_path
from cbtfs.cli.options.state_directory import state_directory
from cbtfs.cli.report.exit_status import most_severe
from cbtfs.cli.report.output import emit, note, report_table, say
from cbtfs.cli.report.progress import progress
from cbtfs.errors import CbtfsError, ExitCode, UsageError

if TYPE_CHECKING:
    from cbtfs.cli.report.documents import Document
    from cbtfs.core.pointname import ClockContext
    from cbtfs.core.proof import Proof
    from cbtfs.listing import Point
    from cbtfs.prove.point import Proven
    from cbtfs.store.repository import Repository

_BOOT_LEVEL: Final = 4
_DEFAULT_LEVEL: Final = 3


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs prove web01@latest",
            "cbtfs prove --level 1 'web*@latest'",
            "cbtfs prove --due --budget 30m",
            "cbtfs prove web01@latest --level 4 --evidence /var/lib/proofs",
        )
    )(prove)


def prove(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="POINT...",
            show_default=False,
            help="VM, VM@latest, VM@-2d, VM@TIME or the start of an id; a pattern such as "
            "'web*@latest' means one point of each matching VM.",
        ),
    ] = None,
    due: Annotated[
        bool,
        typer.Option(
            "--due",
            help="Test the newest good point of each VM, those first whose last proof is oldest.",
        ),
    ] = False,
    level: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=_BOOT_LEVEL,
            help="0: block maps; 1: all data by digest; 2: partitions and superblocks; 3: fsck of "
            "each file system; 4: boot of the guest. A level includes those below.",
        ),
    ] = _DEFAULT_LEVEL,
    budget: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            parser=duration_parser(0),
            show_default="none",
            help="Start no proof after this time: 90s, 30m or 4h.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Points tested at once.")] = 1,
    checked_within: Annotated[
        float,
        typer.Option(
            metavar="T",
            parser=duration_parser(0),
            show_default="7d",
            help="Do not read all data if 'cbtfs check --read-data' has verified the point within "
            "this time; 0: always read.",
        ),
    ] = 7 * 86400.0,
    min_verdict: MinVerdict = "prompt",
    prompt_re: PromptRe = None,
    script: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Program that tests the booted guest: it gets the sockets of the serial port and "
            "of the guest agent, and exits with 0 if the guest works.",
        ),
    ] = None,
    boot_timeout: BootTimeout = 600.0,
    evidence: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="~/.local/state/cbtfs/boots",
            help="Keep the screenshot and the serial output of the last 100 boots here, at most "
            "64 MiB.",
        ),
    ] = None,
    lock_wait: LockWait = 0.0,
    time_zone: TimeZone = LOCAL,
    json: Json = False,
) -> None:
    """Test that restore points work; record the highest level that each one passed.

    Journals are recovered in temporary images, as the next start of the guest would do; the point
    does not change. 'list' and 'show' print the records, and VM@proven names the latest point of
    level 3. If a level fails or cannot be tested, for example because a program is missing, the
    exit code is 3. A point that failed is not damaged: its bytes are those of the disk.
    """
    from cbtfs.ingest.fleet.pool import Rules, run_all
    from cbtfs.ingest.fleet.schedule import FleetLimits
    from cbtfs.listing import current_clock
    from cbtfs.mount.private import private_mount
    from cbtfs.prove.point import Options, Prover
    from cbtfs.prove.record import record
    from cbtfs.store.repository import reading

    if due == bool(names):
        raise UsageError("name points, or use --due for the newest point of each VM")
    path, started, stop = readable_path(context), time.monotonic(), threading.Event()
    with reading(path) as repository:
        waiting = _points(repository, names, current_clock(time_zone))
    results: list[Proven] = []
    failed: list[tuple[Point, CbtfsError]] = []
    folder = _evidence(evidence, path, level)
    boot = boot_options(min_verdict, prompt_re, boot_timeout, script, folder)
    options = Options(level, checked_within, boot)
    total = sum(disk.data_bytes for point in waiting for disk in point.manifest.disks)
    with ExitStack() as stack:
        mounted = stack.enter_context(private_mount(path)) if level >= 3 and waiting else None
        advance = stack.enter_context(
            progress(f"{len(waiting)} points", total, is_wanted=not json and level > 0)
        )
        while waiting and (budget is None or time.monotonic() - started < budget):
            batch, waiting = waiting[:jobs], waiting[jobs:]
            # LMDB allows one environment of a process, so the reader closes before the record.
            with reading(path) as repository:
                prover = Prover(repository, mounted, options, stop)
                rules: Rules[Point, Proven] = Rules(FleetLimits(jobs))
                ended = run_all(batch, lambda point: prover.prove(point, advance), stop, rules)  # noqa: B023
            done = [result for _, result in ended.done]
            record(path, done, lock_wait=lock_wait)
            results += done
            failed += ended.failed
    if json:
        emit(_document(results, waiting, failed))
    else:
        _print(results, waiting)
    for point, error in failed:
        say(f"{point.spelled}: {error}")
    if failed and not results:
        raise typer.Exit(most_severe([error for _, error in failed]))
    if failed or not all(result.has_passed and result.unrecorded is None for result in results):
        raise typer.Exit(ExitCode.PARTIAL)


def _evidence(given: Path | None, repository: Path, level: int) -> Path | None:
    """Return the directory for the evidence of boots, and make it; None without a home."""
    from cbtfs.restore.disk import refuse_inside

    if given is None:
        folder = state_directory() if level >= _BOOT_LEVEL else None
        return None if folder is None else folder / "boots"
    refuse_inside(repository, given)
    try:
        given.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"cannot use --evidence {given}: {exc.strerror}") from exc
    return given


def _points(
    repository: Repository, names: Sequence[str] | None, clock: ClockContext
) -> list[Point]:
    """Return the points to test, each once."""
    from cbtfs.listing import find_points
    from cbtfs.prove.due import due_points

    if not names:
        return due_points(repository)
    found = [point for name in names for point in find_points(repository, name, clock)]
    return list({point.manifest.point: point for point in found}.values())


def _document(
    results: Sequence[Proven], waiting: Sequence[Point], failed: Sequence[tuple[Point, CbtfsError]]
) -> Document:
    from cbtfs.cli.report.documents import of_proof, of_resolved

    return {
        "proven": [
            {
                "point": result.point.manifest.point,
                **of_resolved(result.point),
                "passed": result.has_passed,
                "proof": of_proof(result.proof),
                "parts": [
                    {
                        "name": part.name,
                        "level": part.level,
                        "result": part.result,
                        "text": part.text,
                    }
                    for part in result.parts
                ],
                "unrecorded": result.unrecorded,
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
        "waiting": [{"point": point.manifest.point, **of_resolved(point)} for point in waiting],
        "failed": [
            {
                "point": point.manifest.point,
                **of_resolved(point),
                "exit": error.exit_code,
                "error": str(error),
            }
            for point, error in failed
        ],
    }


def _print(results: Sequence[Proven], waiting: Sequence[Point]) -> None:
    rows = [
        (
            result.point.spelled,
            _level(result.proof),
            result.proof.verdict or "-",
            "passed" if result.has_passed else "failed" if result.proof.failure else "not done",
            f"{result.seconds:.1f} s",
        )
        for result in results
    ]
    if rows:
        report_table(("point", "level", "guest", "result", "time"), rows, right=("time",))
    for result in results:
        why = result.proof.failure or result.proof.obstacle
        if why is not None:
            say(f"{result.point.spelled}: {why}")
        if result.unrecorded is not None:
            say(f"{result.point.spelled}: cannot record the result: {result.unrecorded}")
    if waiting:
        many = "1 point waits" if len(waiting) == 1 else f"{len(waiting)} points wait"
        note(f"the budget is spent: {many} for the next run")


def _level(proof: Proof) -> str:
    return "none" if proof.level is None else str(proof.level)
