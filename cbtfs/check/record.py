"""Write down what a check of the data found: bad places, and when points were last verified."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cbtfs.check.report import Report
from cbtfs.check.subset import ALL, Subset
from cbtfs.check.verification import load_proven, save_proven
from cbtfs.core.ids import PointId
from cbtfs.core.manifest import PointState, unknown_state
from cbtfs.core.moment import format_moment, parse_moment
from cbtfs.errors import AccessDenied, RepositoryLocked, StoreFailed
from cbtfs.store.repository import Repository, writing


def record(path: Path, report: Report, read: Subset, *, lock_wait: float) -> None:
    """Put bad places into quarantine, and date the points that are whole, now that *read* was read.

    All data dates them now; the last of all parts dates them as of the first of these. Where
    nobody may write just now, the report says so instead.
    """
    is_dated = read == ALL or read.parts > 0
    if not report.bad and not is_dated:
        return
    try:
        with writing(path, lock_wait=lock_wait) as repository:
            repository.add_to_quarantine(report.bad)
            if is_dated:
                _date(repository, report, read)
    except (RepositoryLocked, AccessDenied, StoreFailed) as exc:
        report.unrecorded = str(exc)


def _date(repository: Repository, report: Report, read: Subset) -> None:
    there = repository.points.ids()
    now = format_moment(datetime.now(UTC).replace(microsecond=0))
    whole = {point for point in report.whole_points if point in there}
    verified: Mapping[PointId, str] = dict.fromkeys(whole, now)
    if read.parts:
        points = [point for point in report.verified if point in there]
        proven = load_proven(repository.path, read.parts).after(read.part, now, points, whole)
        save_proven(repository.path, proven)
        verified = proven.verified()
    dated = [*_newer(repository, whole, verified, now)]
    repository.put_states(dated)
    report.verified.update((state.point, state.verified) for state in dated)


def _newer(
    repository: Repository, points: Collection[PointId], verified: Mapping[PointId, str], now: str
) -> Iterator[PointState]:
    """States with a later date; one that cannot be read is left for somebody to look at.

    A date that is still to come is of a clock that was wrong, and gives way.
    """
    latest = parse_moment(now)
    for point in sorted(points):
        state, time = repository.points.load_state(point)[0], verified.get(point)
        if time is None or state == unknown_state(point):
            continue
        known = None if state.verified is None else parse_moment(state.verified)
        if known is None or known < parse_moment(time) or known > latest:
            yield replace(state, verified=time)
