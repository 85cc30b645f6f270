"""One attempt to capture a VM: the resources that it needs, and whether a retry may succeed."""

import logging

from cbtfs.errors import CbtfsError, SourceUnavailable
from cbtfs.ingest.fleet.schedule import Needs, Resource
from cbtfs.ingest.vsphere.context import IngestContext
from cbtfs.ingest.vsphere.options import VmIngestResult
from cbtfs.ingest.vsphere.vm import ingest_machine
from cbtfs.source.base import Stopped
from cbtfs.source.vsphere.inventory.placement import load_placement
from cbtfs.source.vsphere.inventory.vms import ListedVm
from cbtfs.source.vsphere.snapshots.snapshot_disk import SnapshotTooOld

log = logging.getLogger(__name__)


class Disturbed(SourceUnavailable):
    """Raised when a capture failed while the server was away or ended the login: retry it."""


def needs_of(context: IngestContext, vm: ListedVm) -> Needs:
    """Return the shared resources that a capture of *vm* takes, at its current placement."""
    placement = load_placement(context.session, vm)
    needs = {Resource("datastore", store): 1 for store in sorted(placement.datastores)}
    if placement.host is not None:
        needs[Resource("host", placement.host)] = placement.disks
    if context.session.is_vcenter:
        connections = (transport.connections() for transport in context.transports)
        server = Resource("vcenter", context.session.server_id)
        needs[server] = placement.disks * next((count for count in connections if count), 0)
    return needs


def attempt(context: IngestContext, vm: ListedVm) -> VmIngestResult:
    """Take one restore point of *vm*.

    Raises:
        Disturbed: the capture failed while the server was away or ended the login.
    """
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
    """Return whether a retry may succeed: the failure was a disturbance, and it is over."""
    if not isinstance(error, Disturbed) or context.session.is_lost:
        return False
    log.warning("%s is tried again: %s", vm.path, error)
    return True
