"""The nbd transport: any NBD server that exports snapshot disks, found by a URI template."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from cbtfs.core.extent import Extent
from cbtfs.errors import SourceUnavailable, UsageError
from cbtfs.source.base import copy_into
from cbtfs.source.nbd import NbdExport, NbdLimits
from cbtfs.source.transport.base import DiskReader, TransportDisk
from cbtfs.source.vsphere.connect.role import Use

FIELDS: Final = ("vm", "snapshot", "key", "path")


class NbdTransport:
    """Reads exports of a server that the user runs."""

    name = "nbd"
    access = None
    privileges: frozenset[Use] = frozenset()

    def __init__(self, template: str, limits: NbdLimits | None = None) -> None:
        """UsageError if *template* has an unknown field or scheme."""
        self._template = template
        self._limits = limits
        try:
            template.format(**dict.fromkeys(FIELDS, "x"))
        except (KeyError, IndexError, ValueError, AttributeError) as exc:
            raise UsageError(
                f"--nbd-uri {template}: unknown field; the fields are "
                f"{', '.join(f'{{{field}}}' for field in FIELDS)}"
            ) from exc
        if not template.startswith(("nbd://", "nbds://", "nbd+unix://", "nbds+unix://")):
            raise UsageError(
                "--nbd-uri must start with nbd://, nbds://, nbd+unix:// or nbds+unix://"
            )

    def connections(self) -> int:
        """Return 0: the server of --nbd-uri reads the disks by itself."""
        return 0

    def refusal(self, disk: TransportDisk) -> str | None:
        return None

    def open(self, disk: TransportDisk) -> DiskReader:
        uri = self._template.format(
            vm=quote(disk.vm),
            snapshot=quote(disk.snapshot),
            key=disk.key,
            path=quote(disk.path, safe=""),
        )
        return open_export(uri, disk, self._limits)


class _ExportReader:
    """An export with the size of the disk."""

    def __init__(self, export: NbdExport) -> None:
        self._export = export
        self.mode = "nbd"
        self.size = export.size

    def allocated(self) -> Sequence[Extent]:
        return self._export.allocated()

    def read(self, extent: Extent) -> memoryview:
        return self._export.read(extent)

    def read_into(self, extent: Extent, parts: Sequence[memoryview]) -> None:
        copy_into(self.read(extent), parts)

    def close(self) -> None:
        self._export.close()


def open_export(uri: str, disk: TransportDisk, limits: NbdLimits | None) -> DiskReader:
    """Return a reader of the export; SourceUnavailable if its size is not that in vSphere."""
    export = NbdExport(uri, limits=limits)
    if export.size != disk.size:
        export.close()
        raise SourceUnavailable(
            f"{export.name} has {export.size} bytes instead of {disk.size}: it is another disk"
        )
    return _ExportReader(export)
