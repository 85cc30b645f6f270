"""Sizes of a bench run: the full form, the quick form, and a tiny one for tests."""

from dataclasses import dataclass

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes, counts and seconds of one form of the bench."""

    name: str
    disk: int
    """Size of the mixed disk and of the disk of random bytes that is stored raw."""
    deltas: int
    large_disk: int
    """Size of the disk of which an incremental writes a fiftieth."""
    commit_disk: int
    """Size of the disk of an overlay that is committed."""
    large_data: int
    """Bytes of data on the large disk."""
    deep_disk: int
    """Size of the disk of the deepest chain."""
    depths: tuple[int, ...]
    """Depths of that chain at which reads are measured, ascending."""
    thin_disks: tuple[int, ...]
    """Sizes of disks with the same data, ascending."""
    thin_data: int
    thin_full: int
    """Size of the thin disk, 2 % used, whose first full is measured with --allocation star."""
    thickest_data: int
    """Bytes of data on the largest thin disk in the rows with many points."""
    thin_points: int
    """Number of incremental points of that disk, with 1 MiB each."""
    fleets: tuple[tuple[int, int], ...]
    """Numbers of points and VMs of the repositories, ascending."""
    change: int
    """Bytes of an incremental in these repositories."""
    history: int
    """Number of points of the disk whose blocks are blamed, each with 1 % of changes."""
    files: int
    """Number of small files in the file system."""
    guest_file: int
    """Size of a large file of a guest."""
    has_guestfish: bool
    """Whether guestfish is measured, whose appliance takes half a minute without KVM."""
    repeats: int
    """Number of samples in rows with a goal."""
    few: int
    """Number of samples in rows that have no goal or take long."""
    fio_seconds: float
    fio_options: tuple[str, ...] = ()
    is_settled: bool = True
    """Whether dirty data of the whole machine is written before samples, and caches are dropped."""


FULL = Sizes(
    name="full",
    disk=2 * GIB,
    deltas=30,
    large_disk=16 * GIB,
    commit_disk=64 * GIB,
    large_data=4 * GIB,
    deep_disk=32 * MIB,  # a chain of a thousand images is read at 1 to 4 MB/s
    depths=(1, 10, 100, 1000),
    thin_disks=(16 * GIB, 256 * GIB, 2048 * GIB),
    thin_data=1 * GIB,
    thin_full=64 * GIB,
    thickest_data=8 * GIB,
    thin_points=1000,
    fleets=((100, 5), (1000, 50), (10_000, 500)),
    change=64 * MIB,
    history=300,
    files=50_000,
    guest_file=500 * MIB,
    has_guestfish=True,
    repeats=5,
    few=3,
    fio_seconds=1.5,
)
QUICK = Sizes(
    name="quick",
    disk=256 * MIB,
    deltas=10,
    large_disk=2 * GIB,
    commit_disk=2 * GIB,
    large_data=256 * MIB,
    deep_disk=64 * MIB,
    depths=(1, 50),
    thin_disks=(4 * GIB, 64 * GIB),
    thin_data=64 * MIB,
    thin_full=8 * GIB,
    thickest_data=128 * MIB,
    thin_points=50,
    fleets=((50, 5), (500, 50)),
    change=8 * MIB,
    history=30,
    files=1000,
    guest_file=64 * MIB,
    has_guestfish=False,
    repeats=3,
    few=1,
    fio_seconds=0.25,
)
TINY = Sizes(
    name="tiny",
    disk=16 * MIB,
    deltas=2,
    large_disk=64 * MIB,
    commit_disk=64 * MIB,
    large_data=16 * MIB,
    deep_disk=16 * MIB,
    depths=(1, 3),
    thin_disks=(256 * MIB, 1 * GIB),
    thin_data=4 * MIB,
    thin_full=64 * MIB,
    thickest_data=4 * MIB,
    thin_points=3,
    fleets=((4, 2), (8, 4)),
    change=1 * MIB,
    history=3,
    files=50,
    guest_file=4 * MIB,
    has_guestfish=False,
    repeats=1,
    few=1,
    fio_seconds=0.02,
    fio_options=("--clocksource=clock_gettime", "--disk_util=0"),  # no calibration of 0.3 s
    is_settled=False,  # it would slow all other programs of the machine, other tests among them
)
