"""Findings about areas of a VM's disks that no capture has read yet."""

from collections.abc import Iterator
from itertools import islice

from cbtfs.core.manifest import Manifest
from cbtfs.core.names import printable
from cbtfs.core.units import format_size
from cbtfs.doctor.finding import Finding, Severity
from cbtfs.listing import decode
from cbtfs.store.repository import Repository


def newest_points(repository: Repository, server_id: str) -> dict[str, Manifest]:
    """Return the newest point of each VM of a server, by instance UUID."""
    newest = {}
    with repository.catalog.view() as view:
        for vm in view.vms().values():
            if vm.vcenter != server_id or vm.instance_uuid is None:
                continue
            for _, point in islice(view.points_of(vm.id, newest_first=True), 1):
                record = view.point(point)
                if record is not None:
                    newest[vm.instance_uuid] = decode(view, point, record).manifest
    return newest


def of_proof(manifest: Manifest) -> Iterator[Finding]:
    """Yield a finding for each disk with areas that no run has read."""
    for disk in manifest.of_kind("disk"):
        allocation = disk.allocation
        if allocation is None or not allocation.unproven:
            continue
        share = int(allocation.proven_share(disk.size) * 1000) / 10
        yield Finding(
            "proof",
            Severity.INFO,
            f"{share} % of {printable(disk.label)} was compared with the source: "
            f"{format_size(allocation.unproven_bytes)} were never read, because they were called "
            "unallocated",
            "each run reads a part (--prove); 'cbtfs ingest vsphere --full --allocation none' "
            "reads everything at once",
        )
