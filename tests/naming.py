"""Points with chosen names and times, for tests of look-ups."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cbtfs.core.ids import VmId
from cbtfs.core.manifest import Manifest, TimeSource, Vm
from cbtfs.core.moment import format_moment, parse_moment, point_name
from cbtfs.core.names import encode_name
from tests.make_points import add_point


def vm_of(digit: str, name: str) -> Vm:
    """Return a VM whose id repeats one hex digit."""
    return Vm(VmId(digit * 32), name, encode_name(name))


class Names:
    """Adds points to a repository in order of capture, numbered like those of ingest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._order = 0

    def add(
        self,
        time: str,
        vm: Vm | None = None,
        *,
        source: TimeSource | None = "clock",
        content: bytes = b"",
        committed: str | None = None,
    ) -> Manifest:
        """Commit a point of *vm* with the time *time*."""
        self._order += 1
        moment = parse_moment(time)

        def change(manifest: Manifest) -> Manifest:
            return replace(
                manifest,
                vm=vm or vm_of("a", "web01"),
                order=self._order,
                time=format_moment(moment),
                name=point_name(moment, ()),
                committed=committed or format_moment(moment),
                time_source=source,
            )

        return add_point(self.path, {"disk": content or time.encode()}, change=change)

    def daily(
        self, days: int, start: datetime = datetime(2020, 1, 1, tzinfo=UTC)
    ) -> list[Manifest]:
        """Add one point a day at noon."""
        noon = start + timedelta(hours=12)
        return [self.add(format_moment(noon + timedelta(days=day))) for day in range(days)]
