"""All manifests of one VM."""

from cbtfs.core.ids import VmId
from cbtfs.core.manifest import Manifest
from cbtfs.listing.point import decode
from cbtfs.store.repository import Repository


def manifests_of(repository: Repository, vm: VmId) -> list[Manifest]:
    """Return the manifests of retained and of forgotten points of *vm*. Only for the writer."""
    manifests = [m for m in repository.forgotten().manifests if m.vm.id == vm]
    with repository.catalog.view() as view:
        for _, point in view.points_of(vm):
            record = view.point(point)
            if record is not None:
                manifests.append(decode(view, point, record).manifest)
    return manifests
