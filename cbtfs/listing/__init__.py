"""Which restore points and VMs there are, and the ones that a user means."""

from cbtfs.listing.find import (
    find_disk,
    find_disks,
    find_exact_point,
    find_point,
    find_points,
    requested,
)
from cbtfs.listing.point import Point, decode, labelled, points, with_state
from cbtfs.listing.vm import find_vm, find_vms, holder_of, matching, no_vm
from cbtfs.listing.zone import here_and_now, zone_of
from cbtfs.store.catalog.naming import bearer, vm_names

__all__ = [
    "Point",
    "bearer",
    "decode",
    "find_disk",
    "find_disks",
    "find_exact_point",
    "find_point",
    "find_points",
    "find_vm",
    "find_vms",
    "here_and_now",
    "holder_of",
    "labelled",
    "matching",
    "no_vm",
    "points",
    "requested",
    "vm_names",
    "with_state",
    "zone_of",
]
