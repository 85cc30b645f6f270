"""`--metrics FILE`: metrics of a run, for the textfile collector of node_exporter.

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
    from cbtfs.cli.report.vm_status import VmStatus
    from cbtfs.core.manifest import Manifest

MetricsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Write metrics of the run in Prometheus text format, to a *.prom file in the "
        "directory of node_exporter's textfile collector.",
    ),
]


@dataclass(frozen=True, slots=True)
class VmResult:
    """Result of one VM in this run."""

    name: str
    uuid: str
    exit_code: int
    seconds: float = 0.0
    tries: int = 0
    manifest: Manifest | None = None
    left_out: int = 0
    """Number of omitted disks that no option excluded."""


@dataclass(slots=True)
class RunCounts:
    """Selected VMs and results of a run, while it is running."""

    command: str
    server: str = ""
    """Address of the server; empty for disk images."""
    wanted: tuple[str, ...] = ()
    """VMs as the user named them, for a run that ends before it resolved the names."""
    chosen: list[tuple[str, str]] | None = None
    """Name and UUID of the selected VMs; None before they are known."""
    results: list[VmResult] = field(default_factory=list)


@contextmanager
def metrics_file(path: Path | None, repository: Path, counts: RunCounts) -> Iterator[RunCounts]:
    """Write the metrics when the block ends, whether it succeeds or fails.

    UsageError if *path* cannot be written, before the block runs.
    """
    if path is None:
        yield counts
        return
    check_writable(path)
    started = time.monotonic()
    code = 0
    try:
        yield counts
    except BaseException as exc:
        code = _code_of(exc)
        raise
    finally:
        _write(path, repository, counts, code, time.monotonic() - started, is_failing=code != 0)


def _code_of(exc: BaseException) -> int:
    from cbtfs.cli.main import Terminated

    if isinstance(exc, (CbtfsError, typer.Exit, Terminated)):
        return exc.exit_code
    if isinstance(exc, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.BUG


def _write(
    path: Path, repository: Path, counts: RunCounts, code: int, seconds: float, *, is_failing: bool
) -> None:
    gauges = Gauges(path.name.removesuffix(".prom"))
    gauges.add_run(counts, code, seconds)
    for result in _results(counts, code):
        gauges.add_result(result)
    try:
        for status in _statuses(repository, counts):
            gauges.add_status(status)
    except CbtfsError as exc:
        say(f"metrics lack earlier restore points: {exc}")
    try:
        replace_text(path, render(gauges.all()))
    except CbtfsError as exc:
        if not is_failing:
            raise
        say(str(exc))


def _results(counts: RunCounts, code: int) -> Iterator[VmResult]:
    """Yield the results of finished VMs, and of selected VMs that were not started."""
    yield from counts.results
    ended = {(result.name, result.uuid) for result in counts.results}
    for name, uuid in counts.chosen or ():
        if (name, uuid) not in ended:
            yield VmResult(name, uuid, code or ExitCode.BUG)


def _statuses(repository: Path, counts: RunCounts) -> Iterator[VmStatus]:
    """Yield the status of the VMs of this run, or of those that its arguments match."""
    from cbtfs.cli.report.vm_status import matching_vms, never_captured, status_of
    from cbtfs.store.repository import reading

    met = dict.fromkeys([(e.name, e.uuid) for e in counts.results] + (counts.chosen or []))
    with reading(repository) as opened, opened.catalog.view() as view:
        by_uuid = {vm.instance_uuid or "": vm for vm in view.vms().values()}
        by_name = {vm.name: vm for vm in view.vms().values() if vm.instance_uuid is None}
        unnamed = list(counts.wanted) if counts.chosen is None else []
        for name, uuid in met:
            vm = by_uuid.get(uuid) if uuid else by_name.get(name)
            if vm is not None:
                yield status_of(view, vm, name)
            elif counts.server and not uuid:
                unnamed.append(name)  # absent on the server, perhaps known to the repository
            else:
                yield never_captured(name, uuid)
        for vm in matching_vms(view, unnamed, counts.server):
            yield status_of(view, vm, vm.name)


class Gauges:
    """All metrics of a run. The label `run` separates the files of several runs."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def all(self) -> Iterable[Gauge]:
        return self._gauges.values()

    def _set(self, name: str, text: str, value: float, labels: Labels | None = None) -> None:
        gauge = self._gauges.setdefault(name, Gauge(f"cbtfs_{name}", text))
        gauge.set({"run": self._run, **(labels or {})}, value)

    def add_run(self, counts: RunCounts, code: int, seconds: float) -> None:
        info = {"command": counts.command, "server": counts.server, "version": __version__}
        self._set("run_info", "Command, server and version of the last run; always 1.", 1, info)
        self._set(
            "run_timestamp_seconds", "End of the last run, in seconds since the epoch.", time.time()
        )
        self._set(
            "run_duration_seconds", "Duration of the last run, in seconds.", round(seconds, 3)
        )
        self._set("run_exit_code", "Exit code of the last run.", code)
        self._set("run_success", "1 if the last run succeeded completely, else 0.", code == 0)

    def add_result(self, result: VmResult) -> None:
        vm = {"vm": result.name, "uuid": result.uuid}
        is_good = result.exit_code == 0
        self._set(
            "vm_success",
            "1 if the last run took a complete restore point of the VM, else 0.",
            is_good,
            vm,
        )
        self._set("vm_exit_code", "Exit code of the VM in the last run.", result.exit_code, vm)
        self._set(
            "vm_duration_seconds",
            "Time spent on the VM in the last run, in seconds.",
            round(result.seconds, 3),
            vm,
        )
        self._set("vm_tries", "Number of attempts for the VM in the last run.", result.tries, vm)
        if result.manifest is not None:
            self._add_point(vm, result.manifest, result.left_out)

    def _add_point(self, vm: Labels, manifest: Manifest, left_out: int) -> None:
        disks = manifest.of_kind("disk")
        counts = [disk.counts for disk in disks]
        transport = str(manifest.metadata.get("transport") or "")
        how = {**vm, "kind": manifest.kind, "transport": transport}
        self._set("vm_point_info", "Kind and transport of the restore point; always 1.", 1, how)
        self._set("vm_disks", "Number of disks in the restore point.", len(disks), vm)
        self._set(
            "vm_disks_left_out", "Number of omitted disks that no option excluded.", left_out, vm
        )
        self._set("vm_size_bytes", "Size of all disks, in bytes.", sum(d.size for d in disks), vm)
        self._set(
            "vm_read_bytes",
            "Data read from the source, in bytes.",
            sum(c.read_bytes for c in counts),
            vm,
        )
        self._set(
            "vm_new_bytes",
            "Data new to the repository, before compression, in bytes.",
            sum(c.new_bytes for c in counts),
            vm,
        )
        self._set(
            "vm_stored_bytes",
            "Data written to the repository, in bytes.",
            sum(c.stored_bytes for c in counts),
            vm,
        )
        records = [(d.size, d.allocation) for d in disks if d.allocation is not None]
        if records:
            unproven = sum(allocation.unproven_bytes for _, allocation in records)
            size = sum(size for size, _ in records)
            text = "Size of the areas of the disks that no run has read yet, in bytes."
            self._set("vm_unproven_bytes", text, unproven, vm)
            text = "Share of the disks that was compared with the source, from 0 to 1."
            self._set("vm_proven_ratio", text, 1 - unproven / size if size else 1, vm)
        if transport:
            untracked = sum(disk.change_id is None for disk in disks)
            text = "Number of disks without change tracking, read whole by each run."
            self._set("vm_untracked_disks", text, untracked, vm)
        whole = Counter(
            (disk.full_reason or FullReason.OTHER) for disk in disks if disk.ingest == "full"
        )
        for reason, count in sorted(whole.items()):
            text = "Number of disks read whole, by reason."
            self._set("vm_whole_disks", text, count, {**vm, "reason": reason.value})

    def add_status(self, status: VmStatus) -> None:
        vm = {"vm": status.name, "uuid": status.uuid}
        moment = 0.0 if status.last_good is None else parse_moment(status.last_good).timestamp()
        text = "Time of the newest complete and intact restore point, in seconds since the epoch."
        self._set("vm_last_good_point_timestamp_seconds", text, moment, vm)
        self._set("vm_points", "Number of restore points in the repository.", status.points, vm)
        self._set("vm_suspect_points", "Number of suspect restore points.", status.suspect, vm)
        text = "Number of suspect restore points without the tag 'acknowledged'."
        self._set("vm_unacknowledged_suspect_points", text, status.unacknowledged, vm)
        self._set("vm_damaged_points", "Number of damaged restore points.", status.damaged, vm)
        proof = status.proof
        level = -1 if proof is None or proof.level is None else proof.level
        text = "Level that the restore point passed that was proven last; -1: none."
        self._set("vm_proof_level", text, level, vm)
        moment = 0.0 if proof is None else parse_moment(proof.attempted).timestamp()
        text = "Time of the last proof of a restore point, in seconds since the epoch; 0: never."
        self._set("vm_proof_timestamp_seconds", text, moment, vm)
        if status.restore_seconds is not None:
            text = "Last measured time to read all data of a restore point, in seconds."
            self._set("vm_restore_seconds", text, status.restore_seconds, vm)
