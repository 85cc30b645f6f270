"""Listings of restore points and VMs, and the ones that a name means."""

from cbtfs.listing.find import (
    find_disk,
    find_disks,
    find_exact_point,
    find_point,
    find_points,
    requested,
)
from cbtfs.listing.manifests import manifests_of
from cbtfs.listing.point import Point, decode, labelled, points, with_state
from cbtfs.listing.vm import find_vm, find_vms, holder_of, matching, no_vm
from cbtfs.listing.zone import current_clock, zone_of
from cbtfs.store.catalog.naming import name_vm, vm_names

__all__ = [
    "Point",
    "current_clock",
    "decode",
    "find_disk",
    "find_disks",
    "find_exact_point",
    "find_point",
    "find_points",
    "find_vm",
    "find_vms",
    "holder_of",
    "labelled",
    "manifests_of",
    "matching",
    "name_vm",
    "no_vm",
    "points",
    "requested",
    "vm_names",
    "with_state",
    "zone_of",
]
