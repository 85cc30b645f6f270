"""Backup status of VMs: the newest reliable point, and the number of unreliable ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cbtfs.core.manifest import Vm
    from cbtfs.core.proof import Proof
    from cbtfs.listing import Point
    from cbtfs.store.catalog.view import View

_EXCLUDED: Final = ("excluded", "not included")


@dataclass(frozen=True, slots=True)
class VmStatus:
    """Backup status of one VM."""

    name: str
    uuid: str
    """Instance UUID of vSphere, or an empty string."""
    last_good: str | None
    """Time, RFC 3339, of the newest point that is whole and not missing, damaged or suspect."""
    points: int
    suspect: int
    damaged: int
    unacknowledged: int = 0
    """Number of suspect points without the tag `acknowledged`."""
    proof: Proof | None = None
    """Record of the point that was tried last by `prove`."""
    restore_seconds: float | None = None
    """Last measured time in which all data of a point was read."""


def never_captured(name: str, uuid: str) -> VmStatus:
    """Return the status of a VM without restore points."""
    return VmStatus(name, uuid, None, 0, 0, 0)


def status_of(view: View, vm: Vm, name: str) -> VmStatus:
    """Return the status of *vm*, whose present name is *name*."""
    from cbtfs.core.manifest import ACKNOWLEDGED
    from cbtfs.listing import points

    all_points = list(points(view, vm.id))
    suspect = [point for point in all_points if "suspect" in point.marks]
    good = [point for point in all_points if is_good(point)]
    proofs = sorted(
        (point.state.proof for point in all_points if point.state.proof is not None),
        key=lambda proof: proof.attempted,
    )
    measured = [
        proof.restore_milliseconds for proof in proofs if proof.restore_milliseconds is not None
    ]
    return VmStatus(
        name,
        vm.instance_uuid or "",
        good[-1].manifest.time if good else None,
        len(all_points),
        len(suspect),
        sum("damaged" in point.marks for point in all_points),
        sum(ACKNOWLEDGED not in point.state.tags for point in suspect),
        proofs[-1] if proofs else None,
        measured[-1] / 1000 if measured else None,
    )


def is_good(point: Point) -> bool:
    """Return whether the point has all wanted disks and is not missing, damaged or suspect."""
    left_out = point.manifest.metadata.get("left_out") or ()
    is_whole = all(_reason(disk) in _EXCLUDED for disk in left_out)
    return is_whole and not {"missing", "damaged", "suspect"} & set(point.marks)


def _reason(left_out: Any) -> object:
    return left_out.get("reason") if isinstance(left_out, dict) else None


def matching_vms(view: View, wanted: Iterable[str], server: str) -> Iterator[Vm]:
    """Yield the VMs in the repository that match *wanted*: names, paths, patterns or UUIDs.

    For a run that could not ask the server. *server* is its address; empty for disk images, which
    have only a name.
    """
    wanted = list(wanted)
    for vm in view.vms().values():
        metadata = _newest_metadata(view, vm)
        if (_member(metadata, "server", "name") or "") != server:
            continue
        path = str(_member(metadata, "vm", "path") or f"/{vm.name}")
        if any(_matches(name, vm, path) for name in wanted):
            yield vm


def _matches(wanted: str, vm: Vm, path: str) -> bool:
    as_path = wanted if wanted.startswith("/") else f"/{wanted}"
    return (
        fnmatchcase(vm.name, wanted)
        or wanted.lower() == (vm.instance_uuid or "").lower()
        or ("/" in wanted and fnmatchcase(path, as_path))
    )


def _newest_metadata(view: View, vm: Vm) -> Any:
    from cbtfs.listing import decode

    for _, point in view.points_of(vm.id, newest_first=True):
        record = view.point(point)
        if record is not None:
            return decode(view, point, record).manifest.metadata
    return {}


def _member(metadata: Any, *names: str) -> object:
    for name in names:
        metadata = metadata.get(name) if isinstance(metadata, dict) else None
    return metadata
