"""QueryChangedDiskAreas: every page, and every rule that its answer must keep.

The rules: VDDK Programming Guide, "Gathering Changed Block Information", and the vSphere API
reference, DiskChangeInfo. An answer that breaks one is not believed at all.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pyVmomi import vim, vmodl

from cbtfs.core.extent import Extent
from cbtfs.core.reasons import FullReason
from cbtfs.source.base import ChangeTrackingInvalid
from cbtfs.source.vsphere.connect.faults import meaning, text_of
from cbtfs.source.vsphere.connect.session import Session

_PAGE_BYTES: Final = 16 << 20
"""A page has up to 2000 areas, of two blocks at least with the gap behind; blocks are 64 KiB, or
4 KiB at the least."""


def changed_areas(
    session: Session, vm: Any, snapshot: Any, key: int, size: int, change_id: str
) -> Sequence[Extent]:
    """What changed on the disk of that device key since *change_id*, up to *snapshot*.

    ChangeTrackingInvalid if that cannot be known, with the reason; AccessDenied if the user may
    not ask; SourceUnavailable if snapshot or session are gone.
    """
    found: list[Extent] = []
    offset = 0
    most = session.retry_policy.max_pages + size // _PAGE_BYTES
    for _ in range(most):
        if offset >= size:
            return found
        page = _query(session, vm, snapshot, key, offset, change_id)
        end = _check_page(page, offset, size)
        found += _extents(page, offset, end)
        offset = end
    if offset < size:
        raise _odd(f"{session.address} needs more than {most} pages for {size} bytes")
    return found


def _query(session: Session, vm: Any, snapshot: Any, key: int, offset: int, change_id: str) -> Any:
    what = "QueryChangedDiskAreas"
    try:
        return session.repeat(
            lambda: vm.QueryChangedDiskAreas(snapshot, key, offset, change_id), what
        )
    except (
        vim.fault.NotAuthenticated,
        vim.fault.NoPermission,
        vmodl.fault.ManagedObjectNotFound,
        vmodl.fault.HostCommunication,
    ) as fault:
        raise meaning(fault, what) from fault
    except vmodl.MethodFault as fault:
        raise ChangeTrackingInvalid(
            f"the change query failed: {text_of(fault)}", FullReason.QUERY_FAILED
        ) from fault


def _check_page(page: Any, offset: int, size: int) -> int:
    """Return the start of the next page."""
    if page.startOffset != offset:
        raise _odd(f"asked from {offset}, answered from {page.startOffset}")
    if page.length <= 0:
        raise _odd(f"the page at {offset} has length {page.length}")
    end = int(page.startOffset + page.length)
    if end > size:
        raise _odd(f"the page at {offset} ends at {end}, beyond the disk's {size} bytes")
    return end


def _extents(page: Any, start: int, end: int) -> Iterator[Extent]:
    at = start
    for area in page.changedArea:
        if area.length <= 0:
            raise _odd(f"an area at {area.start} has length {area.length}")
        if not start <= area.start or area.start + area.length > end:
            raise _odd(f"an area at {area.start} lies outside of its page")
        if area.start < at:
            raise _odd(f"the area at {area.start} is out of order")
        at = area.start + area.length
        yield Extent(int(area.start), int(area.length))


def _odd(what: str) -> ChangeTrackingInvalid:
    return ChangeTrackingInvalid(
        f"the change list is not believed: {what}", FullReason.LIST_REFUSED
    )
