"""The points that `prove --due` tests: the newest good point of each VM, oldest proof first."""

from cbtfs.core.dated import latest_good
from cbtfs.listing import Point, labelled, points, vm_names
from cbtfs.store.repository import Repository

_BAD = {"missing", "damaged", "suspect"}


def due_points(repository: Repository) -> list[Point]:
    """Return one point of each VM: VMs without a proof first, then those not tried for longest."""
    chosen: list[tuple[str, Point]] = []
    with repository.catalog.view() as view:
        names = vm_names(view)
        for vm in view.vms():
            every = {point.manifest.point: point for point in points(view, vm)}
            newest = latest_good(
                [point.dated for point in every.values()],
                lambda dated, every=every: not _BAD & set(every[dated.point].marks),  # type: ignore[misc]
            )
            if newest is None:
                continue
            proofs = [point.state.proof for point in every.values()]
            last = max((proof.attempted for proof in proofs if proof is not None), default="")
            chosen.append((last, labelled(every[newest.point], names)))
    chosen.sort(key=lambda item: (item[0], item[1].spelled))
    return [point for _, point in chosen]
