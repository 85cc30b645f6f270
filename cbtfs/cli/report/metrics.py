"""`--metrics FILE`: what became of a run, for Prometheus by node_exporter's textfile collector.

Names and meanings are a contract: docs/commands.md lists them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cbtfs import __version__
from cbtfs.cli.report.output import say
from cbtfs.cli.report.textfile import check_writable, replace_text
from cbtfs.core.exposition import Gauge, Labels, render
from cbtfs.core.moment import parse_moment
from cbtfs.core.reasons import FullReason
from cbtfs.errors import CbtfsError, ExitCode

if TYPE_CHECKING:
    from cbtfs.cli.report.vm_status import Standing
    from cbtfs.core.manifest import Manifest

MetricsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Write how it went, in Prometheus's text format: a *.prom in the folder of "
        "node_exporter's textfile collector.",
    ),
]


@dataclass(frozen=True, slots=True)
class VmResult:
    """What became of one VM in this run."""

    name: str
    uuid: str
    exit_code: int
    seconds: float = 0.0
    tries: int = 0
    manifest: Manifest | None = None
    left_out: int = 0
    """Disks that nobody excluded."""


@dataclass(slots=True)
class Tally:
    """What is known of a run so far."""

    command: str
    server: str = ""
    """Empty for a run that asks none."""
    wanted: tuple[str, ...] = ()
    """VMs as the user named them; for a run that never learns which these are."""
    chosen: list[tuple[str, str]] | None = None
    """Name and UUID of those that are meant; None before that is known."""
    results: list[VmResult] = field(default_factory=list)


@contextmanager
def metrics_file(path: Path | None, repository: Path, tally: Tally) -> Iterator[Tally]:
    """Write the metrics when what is inside ends, however it ends; before that, nothing.

    UsageError if *path* cannot be written, before anything is done.
    """
    if path is None:
        yield tally
        return
    check_writable(path)
    started = time.monotonic()
    code = 0
    try:
        yield tally
    except BaseException as exc:
        code = _code_of(exc)
        raise
    finally:
        _write(path, repository, tally, code, time.monotonic() - started, is_failing=code != 0)


def _code_of(exc: BaseException) -> int:
    from cbtfs.cli.main import Terminated

    if isinstance(exc, (CbtfsError, typer.Exit, Terminated)):
        return exc.exit_code
    if isinstance(exc, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.BUG


def _write(
    path: Path, repository: Path, tally: Tally, code: int, seconds: float, *, is_failing: bool
) -> None:
    gauges = Gauges(path.name.removesuffix(".prom"))
    gauges.add_run(tally, code, seconds)
    for result in _results(tally, code):
        gauges.add_result(result)
    try:
        for standing in _standings(repository, tally):
            gauges.add_standing(standing)
    except CbtfsError as exc:
        say(f"metrics do not tell of earlier points: {exc}")
    try:
        replace_text(path, render(gauges.all()))
    except CbtfsError as exc:
        if not is_failing:
            raise
        say(str(exc))


def _results(tally: Tally, code: int) -> Iterator[VmResult]:
    """Those that had their turn, and those that were meant to have one."""
    yield from tally.results
    ended = {(each.name, each.uuid) for each in tally.results}
    for name, uuid in tally.chosen or ():
        if (name, uuid) not in ended:
            yield VmResult(name, uuid, code or ExitCode.BUG)


def _standings(repository: Path, tally: Tally) -> Iterator[Standing]:
    """Of the VMs of this run, or those that it would have been about."""
    from cbtfs.cli.report.vm_status import nowhere, standing_of, vms_meant
    from cbtfs.store.repository import reading

    met = dict.fromkeys([(e.name, e.uuid) for e in tally.results] + (tally.chosen or []))
    with reading(repository) as opened, opened.catalog.view() as view:
        by_uuid = {vm.instance_uuid or "": vm for vm in view.vms().values()}
        by_name = {vm.name: vm for vm in view.vms().values() if vm.instance_uuid is None}
        unnamed = list(tally.wanted) if tally.chosen is None else []
        for name, uuid in met:
            vm = by_uuid.get(uuid) if uuid else by_name.get(name)
            if vm is not None:
                yield standing_of(view, vm, name)
            elif tally.server and not uuid:
                unnamed.append(name)  # the server has no such VM: the repository may
            else:
                yield nowhere(name, uuid)
        for vm in vms_meant(view, unnamed, tally.server):
            yield standing_of(view, vm, vm.name)


class Gauges:
    """All metrics of a run. The label `run` keeps the files of several runs apart."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def all(self) -> Iterable[Gauge]:
        return self._gauges.values()

    def _set(self, name: str, text: str, value: float, labels: Labels | None = None) -> None:
        gauge = self._gauges.setdefault(name, Gauge(f"cbtfs_{name}", text))
        gauge.set({"run": self._run, **(labels or {})}, value)

    def add_run(self, tally: Tally, code: int, seconds: float) -> None:
        info = {"command": tally.command, "server": tally.server, "version": __version__}
        self._set("run_info", "What the last run was.", 1, info)
        self._set("run_timestamp_seconds", "When the last run ended.", time.time())
        self._set("run_duration_seconds", "How long the last run took.", round(seconds, 3))
        self._set("run_exit_code", "The exit code of the last run.", code)
        self._set("run_success", "Whether the last run did all of it.", code == 0)

    def add_result(self, each: VmResult) -> None:
        vm = {"vm": each.name, "uuid": each.uuid}
        is_good = each.exit_code == 0
        self._set("vm_success", "Whether the last run took a whole point.", is_good, vm)
        self._set("vm_exit_code", "Why not: an exit code.", each.exit_code, vm)
        self._set("vm_duration_seconds", "At work on the VM.", round(each.seconds, 3), vm)
        self._set("vm_tries", "How often the VM was tried.", each.tries, vm)
        if each.manifest is not None:
            self._add_point(vm, each.manifest, each.left_out)

    def _add_point(self, vm: Labels, manifest: Manifest, left_out: int) -> None:
        disks = manifest.of_kind("disk")
        counts = [disk.counts for disk in disks]
        transport = str(manifest.metadata.get("transport") or "")
        how = {**vm, "kind": manifest.kind, "transport": transport}
        self._set("vm_point_info", "How the point was taken.", 1, how)
        self._set("vm_disks", "Disks in the point.", len(disks), vm)
        self._set("vm_disks_left_out", "Disks left out that nobody excluded.", left_out, vm)
        self._set("vm_size_bytes", "Size of all disks.", sum(d.size for d in disks), vm)
        self._set("vm_read_bytes", "Read.", sum(c.read_bytes for c in counts), vm)
        self._set(
            "vm_new_bytes", "Not in the repository yet.", sum(c.new_bytes for c in counts), vm
        )
        self._set("vm_stored_bytes", "Written for it.", sum(c.stored_bytes for c in counts), vm)
        if transport:
            untracked = sum(disk.change_id is None for disk in disks)
            text = "Disks without change tracking, which each run reads whole."
            self._set("vm_untracked_disks", text, untracked, vm)
        whole = Counter(
            (disk.full_reason or FullReason.OTHER) for disk in disks if disk.ingest == "full"
        )
        for reason, count in sorted(whole.items()):
            text = "Disks that were read whole, by the reason."
            self._set("vm_whole_disks", text, count, {**vm, "reason": reason.value})

    def add_standing(self, each: Standing) -> None:
        vm = {"vm": each.name, "uuid": each.uuid}
        moment = 0.0 if each.last_good is None else parse_moment(each.last_good).timestamp()
        text = "Moment of the newest point that is whole, undamaged and not suspect; 0 for none."
        self._set("vm_last_good_point_timestamp_seconds", text, moment, vm)
        self._set("vm_points", "Points in the repository.", each.points, vm)
        self._set("vm_suspect_points", "Points in doubt.", each.suspect, vm)
        text = "Suspect restore points without the tag 'acknowledged'."
        self._set("vm_unacknowledged_suspect_points", text, each.unacknowledged, vm)
        self._set("vm_damaged_points", "Points with a block map missing.", each.damaged, vm)
