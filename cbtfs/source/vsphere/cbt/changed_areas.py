"""Query all pages of QueryChangedDiskAreas and validate them.

The rules are those of the VDDK Programming Guide, "Gathering Changed Block Information", and of
DiskChangeInfo in the vSphere API reference. An answer that violates a rule is refused completely.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.core.extent import Extent
from cbtfs.core.reasons import FullReason
from cbtfs.source.base import ChangeTrackingInvalid
from cbtfs.source.vsphere.connect.faults import error_of, text_of
from cbtfs.source.vsphere.connect.session import Session

_PAGE_BYTES: Final = 16 << 20
"""Minimum number of bytes that a full page covers: 2000 areas, each at least one block with one
unchanged block after it, and blocks of at least 4 KiB (usually 64 KiB)."""


@dataclass(frozen=True, slots=True)
class ChangeQuery:
    """The disk and the two moments between which changes are queried."""

    vm: Any
    snapshot: Any
    key: int
    """The device key of the disk."""
    change_id: str
    """The earlier moment; the later one is the snapshot."""


def changed_areas(session: Session, query: ChangeQuery, size: int) -> Sequence[Extent]:
    """Return the changed areas of a disk of *size* bytes.

    Raises:
        ChangeTrackingInvalid: the changes are unknown, with the reason.
        AccessDenied: the user lacks the privilege for the query.
        SourceUnavailable: the snapshot was removed or the server does not answer.
    """
    areas: list[Extent] = []
    offset = 0
    max_pages = session.retry_policy.max_pages + size // _PAGE_BYTES
    for _ in range(max_pages):
        if offset >= size:
            return areas
        page = _page(session, query, offset)
        end = _check_page(page, offset, size)
        areas += _extents(page, offset, end)
        offset = end
    if offset < size:
        raise _invalid(f"{session.address} needs more than {max_pages} pages for {size} bytes")
    return areas


def _page(session: Session, query: ChangeQuery, offset: int) -> Any:
    what = "QueryChangedDiskAreas"
    try:
        return session.repeat(
            lambda: query.vm.QueryChangedDiskAreas(
                query.snapshot, query.key, offset, query.change_id
            ),
            what,
        )
    except (
        vim.fault.NotAuthenticated,
        vim.fault.NoPermission,
        vmodl.fault.ManagedObjectNotFound,
        vmodl.fault.HostCommunication,
    ) as fault:
        raise error_of(fault, what) from fault
    except vmodl.MethodFault as fault:
        raise ChangeTrackingInvalid(
            f"the change query failed: {text_of(fault)}", FullReason.QUERY_FAILED
        ) from fault


def _check_page(page: Any, offset: int, size: int) -> int:
    """Return the start of the next page."""
    if page.startOffset != offset:
        raise _invalid(f"the page at {offset} starts at {page.startOffset}")
    if page.length <= 0:
        raise _invalid(f"the page at {offset} has length {page.length}")
    end = int(page.startOffset + page.length)
    if end > size:
        raise _invalid(f"the page at {offset} ends at {end}, beyond the disk's {size} bytes")
    return end


def _extents(page: Any, start: int, end: int) -> Iterator[Extent]:
    at = start
    for area in page.changedArea:
        if area.length <= 0:
            raise _invalid(f"the area at {area.start} has length {area.length}")
        if not start <= area.start or area.start + area.length > end:
            raise _invalid(f"the area at {area.start} is not within its page")
        if area.start < at:
            raise _invalid(f"the area at {area.start} is out of order")
        at = area.start + area.length
        yield Extent(int(area.start), int(area.length))


def _invalid(why: str) -> ChangeTrackingInvalid:
    return ChangeTrackingInvalid(f"the change list is refused: {why}", FullReason.LIST_REFUSED)
