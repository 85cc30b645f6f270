"""`cbtfs watch`: report changes of VMs, and capture VMs after changes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from threading import Event
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cbtfs.cli.commands.ingest_vsphere import FleetOptions, VmOptions, capture_setup
from cbtfs.cli.options.arguments import Json, LockWait, duration_parser, example
from cbtfs.cli.options.capture import CaptureOptions
from cbtfs.cli.options.context import repository_path
from cbtfs.cli.options.groups import expand_groups
from cbtfs.cli.options.login import LoginOptions, VmNames
from cbtfs.cli.options.transports import TransportOptions, VddkModes
from cbtfs.cli.report.output import emit_line, note, print_lines, say
from cbtfs.cli.report.vm_events import Line, line_of, line_of_capture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cbtfs.ingest.vsphere.captures import CaptureSetup
    from cbtfs.ingest.vsphere.triggered import TriggeredCaptures, TriggerPolicy
    from cbtfs.source.vsphere.connect.session import Session
    from cbtfs.source.vsphere.watch.follow import VmEvent

_POLL_SECONDS: Final = 0.5
"""Interval at which the main thread wakes: only it runs the handlers of signals."""
_MAX_LINES: Final = 10_000
"""Lines that wait for a slow reader of standard output; then no more updates are read."""


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs watch --server vc1 --user backup@vsphere.local 'web*' db1",
            "cbtfs watch --server vc1 --user backup@vsphere.local --capture --json '*'",
        )
    )(expand_groups(watch))


@dataclass(frozen=True, slots=True)
class TriggerOptions:
    """When VMs are captured."""

    capture: Annotated[
        bool,
        typer.Option(
            "--capture",
            help="Take a point of a VM after a snapshot that is not of cbtfs, a reconfiguration "
            "or a power-off. The options of 'ingest vsphere' apply.",
        ),
    ] = False
    min_interval: Annotated[
        float,
        typer.Option(
            metavar="T",
            parser=duration_parser(0),
            show_default="15m",
            help="Minimum time between the starts of two captures of a VM; a later change waits.",
        ),
    ] = 900.0


Poll = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        parser=duration_parser(1),
        show_default=False,
        help="Ask for updates at this interval instead of waiting for them in long calls, which "
        "some proxies cut.",
    ),
]


def watch(
    context: typer.Context,
    vm: VmNames,
    login: LoginOptions,
    trigger: TriggerOptions,
    transport: TransportOptions,
    fleet: FleetOptions,
    vms: VmOptions,
    capture: CaptureOptions,
    poll: Poll = None,
    vddk_modes: VddkModes = None,
    lock_wait: LockWait = 600.0,
    json: Json = False,
) -> None:
    """Report changes of virtual machines until the command is stopped.

    Each change is one line: power, snapshots, migration, configuration, disks and change tracking;
    with --json it is one document per line. The state at the start and changes that cbtfs makes
    are not reported. After a lost session or a restart of the vCenter, the state is compared with
    the last known one, so no change is lost or reported twice. With --capture, the repository is
    locked only while a point is taken.
    """
    wanted = login.resolve(context)
    setup = capture_setup(transport, fleet, vms, capture, vddk_modes)
    path = repository_path(context) if trigger.capture else None
    server = wanted.login()
    stop = Event()
    with server.session(stop) as session:
        from cbtfs.ingest.vsphere.triggered import TriggerPolicy

        policy = TriggerPolicy(trigger.min_interval, lock_wait)
        output = _Output(stop, as_json=json)
        captures = None
        if path is not None:
            captures = _captures(path, session, setup, policy, output)
        _run(session, vm, poll, _Watch(stop, output, captures))


def _captures(
    path: Path, session: Session, setup: CaptureSetup, policy: TriggerPolicy, output: _Output
) -> TriggeredCaptures:
    from cbtfs.ingest.vsphere.triggered import TriggeredCaptures
    from cbtfs.store.repository import reading

    with reading(path):
        """The directory has a repository: report an error at the start, not after an event."""
    return TriggeredCaptures(
        path,
        session,
        setup,
        policy,
        lambda capture: output.put(line_of_capture(capture, datetime.now(UTC))),
    )


class _Output:
    """Lines that wait for the main thread, which prints them."""

    def __init__(self, stop: Event, *, as_json: bool) -> None:
        self._stop = stop
        self._as_json = as_json
        self._lines: Queue[Line] = Queue(_MAX_LINES)

    def put(self, line: Line) -> None:
        """Add a line; wait if too many lines wait, unless the watch is stopped."""
        while True:
            try:
                self._lines.put(line, timeout=_POLL_SECONDS)
                return
            except Full:
                if self._stop.is_set():
                    return

    def print_next(self, seconds: float) -> bool:
        """Print the next line that arrives within *seconds*; return whether there was one."""
        try:
            line = self._lines.get(timeout=seconds)
        except Empty:
            return False
        if self._as_json:
            emit_line(line.document)
        else:
            print_lines([line.text])
        return True


@dataclass(frozen=True, slots=True)
class _Watch:
    """State that the threads of a watch share."""

    stop: Event
    output: _Output
    captures: TriggeredCaptures | None

    def report(self, events: Sequence[VmEvent]) -> None:
        """Report events, and request captures."""
        moment = datetime.now(UTC)
        for event in events:
            self.output.put(line_of(event, moment))
            if self.captures is None or event.vm is None:
                continue
            if event.kind == "left":
                self.captures.drop(event.vm.id)
            elif event.is_trigger:
                self.captures.add(event.vm, event.kind)


def _run(session: Session, names: Sequence[str], poll: float | None, watch: _Watch) -> None:
    """Read updates and capture in threads, and print in this one, until a signal arrives."""
    from cbtfs.source.vsphere.watch.follow import Follower, WatchTimes

    times = WatchTimes(poll=poll)
    follower = Follower(session, names, watch.stop, watch.report, times)
    for name, error in follower.select():
        say(f"{name}: {error}")
    with ThreadPoolExecutor(3, "watch") as pool:
        try:
            work: list[Future[None]] = [pool.submit(follower.run)]
            if watch.captures is not None:
                work.append(pool.submit(watch.captures.run, watch.stop))
            _print_all(watch, work, lambda: pool.submit(follower.cancel))
        finally:
            watch.stop.set()
    for future in work:
        future.result()


def _print_all(
    watch: _Watch, work: Sequence[Future[None]], cancel: Callable[[], Future[None]]
) -> None:
    """Print lines until all *work* has ended.

    The first signal, error of standard output, or end of a thread stops the work. Signals and
    errors of the output are raised when all work has ended, so that no snapshot is left behind.
    """
    interrupt: BaseException | None = None
    cancelling: Future[None] | None = None
    is_over = False
    while not is_over:
        is_over = all(future.done() for future in work)
        try:
            while watch.output.print_next(0 if is_over else _POLL_SECONDS):
                """Print the lines that wait."""
        except BaseException as exc:
            if interrupt is None and watch.captures is not None:
                note("stopping: captures in progress remove their snapshots first")
            interrupt = interrupt or exc
        if interrupt is not None or any(future.done() for future in work):
            watch.stop.set()
            # Again and again, because the follower may begin a wait just after a cancellation.
            if cancelling is None or cancelling.done():
                cancelling = cancel()
    if interrupt is not None:
        raise interrupt
