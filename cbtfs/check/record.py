"""Recording of a check of the data: quarantine, and the moments of verification."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cbtfs.check.report import CheckReport
from cbtfs.check.subset import ALL, Subset
from cbtfs.check.verification import load_parts, save_parts
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import PointState, unknown_state
from cbtfs.core.moment import format_moment, parse_moment
from cbtfs.errors import AccessDenied, RepositoryLocked, StoreFailed
from cbtfs.store.repository import Repository, writing


def record(path: Path, report: CheckReport, read: Subset, *, lock_wait: float) -> None:
    """Quarantine corrupt frames, trust intact packs, and record the verification of points.

    A check of all data verifies a point now. After the last of all parts a point counts as
    verified since the oldest of the parts. If the repository cannot be written, the report says
    why.
    """
    is_dated = read == ALL or read.parts > 0
    trusted = {p: report.intact_packs[p] for p in report.unverified & report.intact_packs.keys()}
    if not report.corrupt and not is_dated and not trusted:
        return
    try:
        with writing(path, lock_wait=lock_wait) as repository:
            repository.add_to_quarantine(report.corrupt)
            if trusted:
                report.unverified -= repository.count_verified(trusted)
            if is_dated:
                _date(repository, report, read)
    except (RepositoryLocked, AccessDenied, StoreFailed) as exc:
        report.unrecorded = str(exc)


def _date(repository: Repository, report: CheckReport, read: Subset) -> None:
    present = repository.points.ids()
    now = format_moment(datetime.now(UTC).replace(microsecond=0))
    whole = {point for point in report.whole_points if point in present}
    verified: Mapping[PointId, str] = dict.fromkeys(whole, now)
    if read.parts:
        points = [point for point in report.verified if point in present]
        parts = load_parts(repository.path, read.parts).after(read.part, now, points, whole)
        save_parts(repository.path, parts)
        verified = parts.verified()
    dated = [*_newer(repository, whole, verified, now)]
    repository.put_states(dated)
    report.verified.update((state.point, state.verified) for state in dated)


def _newer(
    repository: Repository, points: Collection[PointId], verified: Mapping[PointId, str], now: str
) -> Iterator[PointState]:
    """Yield states with a later moment of verification, without those that cannot be read.

    A recorded moment in the future comes from a wrong clock and is replaced.
    """
    latest = parse_moment(now)
    for point in sorted(points):
        state, time = repository.points.load_state(point)[0], verified.get(point)
        if time is None or state == unknown_state(point):
            continue
        known = None if state.verified is None else parse_moment(state.verified)
        if known is None or known < parse_moment(time) or known > latest:
            yield replace(state, verified=time)
