"""Output of a run of several VMs: a line per VM, a final table, and documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cbtfs.cli.report.exit_status import Failed, failed_documents
from cbtfs.cli.report.metrics import RunCounts, VmResult
from cbtfs.cli.report.output import note, report_table
from cbtfs.core.units import format_duration, format_size
from cbtfs.errors import CbtfsError, ExitCode

if TYPE_CHECKING:
    from cbtfs.core.manifest import Manifest
    from cbtfs.ingest.fleet.pool import Ended
    from cbtfs.ingest.vsphere.options import VmIngestResult
    from cbtfs.source.vsphere.inventory.vms import ListedVm, VmSelection

    VmEnded = Ended[ListedVm, VmIngestResult]


class Names:
    """Display names of VMs: the name, or the path if several VMs have that name."""

    def __init__(self, vms: Sequence[ListedVm]) -> None:
        names = Counter(vm.name for vm in vms)
        self._of = {vm.id: vm.path if names[vm.name] > 1 else vm.name for vm in vms}
        self.total = len(vms)

    def of(self, vm: ListedVm) -> str:
        return self._of[vm.id]


class VmProgress:
    """Prints a line for each finished VM, and records its result for the metrics."""

    def __init__(self, names: Names, counts: RunCounts) -> None:
        self._names = names
        self._counts = counts
        self._count = 0

    def __call__(self, ended: VmEnded) -> None:
        self._count += 1
        self._counts.results.append(_result_of(ended))
        if self._names.total > 1:
            place = f"[{self._count}/{self._names.total}]"
            note(f"{place} {self._names.of(ended.item)}: {_in_words(ended)}")


def _in_words(ended: VmEnded) -> str:
    tries = f", at try {ended.tries}" if ended.tries > 1 else ""
    time = f"{format_duration(ended.seconds)}{tries}"
    if isinstance(ended.result, CbtfsError):
        return f"failed with {ended.result.exit_code} after {time}"
    manifest = ended.result.manifest
    read, stored = format_size(_read(manifest)), format_size(_stored(manifest))
    return f"{manifest.kind}, {read} read, {stored} stored, {time}"


def print_fleet(ended: Sequence[VmEnded], names: Names, refused: Failed) -> None:
    """Print a table with a row for each VM, in the order in which they were named."""
    rows = [_row(vm_ended, names) for vm_ended in ended]
    rows += [(name, "failed", "", "", "", "", "", str(error)) for name, error in refused]
    report_table(
        ("vm", "result", "kind", "read", "stored", "time", "transport", "reason"),
        rows,
        right=("read", "stored", "time"),
    )


def _row(ended: VmEnded, names: Names) -> tuple[str, ...]:
    name, time = names.of(ended.item), format_duration(ended.seconds)
    if isinstance(ended.result, CbtfsError):
        return (name, "failed", "", "", "", time, "", str(ended.result))
    manifest = ended.result.manifest
    return (
        name,
        "done" if ended.result.is_whole else "partly",
        manifest.kind,
        format_size(_read(manifest)),
        format_size(_stored(manifest)),
        time,
        str(manifest.metadata["transport"]),
        manifest.reason,
    )


def _read(manifest: Manifest) -> int:
    return sum(disk.counts.read_bytes for disk in manifest.of_kind("disk"))


def _stored(manifest: Manifest) -> int:
    return sum(disk.counts.stored_bytes for disk in manifest.of_kind("disk"))


def document_of(ended: Sequence[VmEnded], refused: Failed, seconds: float) -> dict[str, Any]:
    """Return the document of `ingest vsphere --json`."""
    points, failed = [], failed_documents(refused)
    for vm_ended in ended:
        if isinstance(vm_ended.result, CbtfsError):
            (document,) = failed_documents([(vm_ended.item.name, vm_ended.result)])
            spent = {"seconds": round(vm_ended.seconds, 3), "tries": vm_ended.tries}
            failed.append({**document, "path": vm_ended.item.path, **spent})
        else:
            points.append(_document(vm_ended.result, vm_ended))
    return {"points": points, "failed": failed, "seconds": round(seconds, 3)}


def _document(outcome: VmIngestResult, ended: VmEnded) -> dict[str, Any]:
    from cbtfs.cli.report.documents import of_ingest

    metadata = outcome.manifest.metadata
    return {
        **of_ingest(outcome.manifest, ended.seconds),
        "transport": metadata["transport"],
        "consistency": metadata["snapshot"]["consistency"],
        "left_out": list(metadata["left_out"]),
        "warnings": list(outcome.warnings),
        "notes": list(outcome.notes),
        "resumed": metadata.get("resumed"),
        "tries": ended.tries,
    }


def record_selection(counts: RunCounts, selection: VmSelection) -> None:
    """Record the VMs of a run for the metrics."""
    counts.chosen = [(vm.name, vm.identity) for vm in selection.vms]
    counts.results += [VmResult(name, "", error.exit_code) for name, error in selection.refused]


def _result_of(ended: VmEnded) -> VmResult:
    """Return the result of a VM for the metrics."""
    name, uuid, result = ended.item.name, ended.item.identity, ended.result
    if isinstance(result, CbtfsError):
        return VmResult(name, uuid, result.exit_code, ended.seconds, ended.tries)
    code = ExitCode.DONE if result.is_whole else ExitCode.PARTIAL
    left_out = sum(omitted.is_wanted for omitted in result.left_out)
    return VmResult(name, uuid, code, ended.seconds, ended.tries, result.manifest, left_out)
