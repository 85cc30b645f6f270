"""The probe of a volume."""

from typing import Final

from cbtfs.files.probe.ext import probe_ext
from cbtfs.files.probe.fat import probe_exfat, probe_fat
from cbtfs.files.probe.ntfs import probe_ntfs
from cbtfs.files.probe.others import (
    probe_btrfs,
    probe_luks,
    probe_lvm,
    probe_md,
    probe_swap,
    probe_windows,
)
from cbtfs.files.probe.values import NOTHING, Probe
from cbtfs.files.probe.xfs import probe_xfs
from cbtfs.volumes.source import Source

_PROBES: Final = (
    probe_md,  # first: the content of a mirror begins like a file system
    probe_luks,
    probe_lvm,
    probe_windows,
    probe_ntfs,
    probe_exfat,
    probe_xfs,
    probe_btrfs,
    probe_ext,
    probe_swap,
    probe_fat,  # last: its signature is that of any boot sector
)


def probe(source: Source) -> Probe:
    """Return the content of a volume. Less than 1 MiB is read from any volume.

    Raises:
        CbtfsError: the volume cannot be read.
    """
    for look in _PROBES:
        found = look(source)
        if found is not None:
            return found
    return NOTHING
