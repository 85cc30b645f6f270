"""Write down what a check of the data found: bad places, and when points were last verified."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cbtfs.check.report import Report
from cbtfs.core.moment import format_moment
from cbtfs.errors import AccessDenied, RepositoryLocked, StoreFailed
from cbtfs.store.repository import writing


def record(path: Path, report: Report, *, is_full: bool, lock_wait: float) -> None:
    """Put bad places into quarantine; after a full read, date the points that are whole.

    Where nobody may write just now, the report says so instead.
    """
    if not report.bad and not is_full:
        return
    now = format_moment(datetime.now(UTC).replace(microsecond=0))
    try:
        with writing(path, lock_wait=lock_wait) as repository:
            repository.add_to_quarantine(report.bad)
            if not is_full:
                return
            there = repository.points.ids()
            whole = [point for point in report.whole_points if point in there]
            repository.put_states(
                replace(repository.points.load_state(point)[0], verified=now) for point in whole
            )
            report.verified.update(dict.fromkeys(whole, now))
    except (RepositoryLocked, AccessDenied, StoreFailed) as exc:
        report.unrecorded = str(exc)
