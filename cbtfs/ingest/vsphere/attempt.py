"""One try to capture a VM: where it is just before, and whether a failure is the VM's own."""

import logging

from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.ingest.fleet.schedule import Needs, Resource
from cbtfs.ingest.vsphere.options import VmIngestResult
from cbtfs.ingest.vsphere.vm import IngestContext, ingest_machine
from cbtfs.source.base import Stopped
from cbtfs.source.vsphere.inventory.placement import load_placement
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot_disk import SnapshotTooOld

log = logging.getLogger(__name__)


class Disturbed(SourceUnavailable):
    """A capture failed while the server went away or ended the login: another may succeed."""


def needs_of(context: IngestContext, vm: ListedVm) -> Needs:
    """What *vm* takes of what it shares with others, where it is now."""
    place = load_placement(context.session, vm)
    needs = {Resource("datastore", each): 1 for each in sorted(place.datastores)}
    if place.host is not None:
        needs[Resource("host", place.host)] = place.disks
    if context.session.is_vcenter:
        usable = (count for each in context.transports if (count := each.connections()))
        server = Resource("vcenter", context.session.server_id)
        needs[server] = place.disks * next(usable, 0)
    return needs


def attempt(context: IngestContext, vm: ListedVm) -> VmIngestResult:
    """One restore point of *vm*; Disturbed where a failure came with trouble of the server."""
    before = context.session.disturbances
    try:
        return ingest_machine(context, vm)
    except (Stopped, SnapshotTooOld):
        raise
    except SourceUnavailable as exc:
        if context.session.disturbances == before:
            raise
        raise Disturbed(f"{exc} (the server was away, or ended the login, meanwhile)") from exc


def goes_again(context: IngestContext, vm: ListedVm, error: CbtfsError) -> bool:
    """Whether another try may succeed: the failure came with a disturbance that is over."""
    if not isinstance(error, Disturbed) or context.session.is_lost:
        return False
    log.warning("%s is tried again: %s", vm.path, error)
    return True
