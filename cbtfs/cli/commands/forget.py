"""`cbtfs forget`, `cbtfs protect` and `cbtfs tag`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cbtfs.cli.commands.prune import conclude, print_result, prune_document, prune_now
from cbtfs.cli.options.arguments import LOCAL, DryRun, Json, LockWait, PointName, TimeZone, example
from cbtfs.cli.options.context import readable_path, repository_path
from cbtfs.cli.report.display import display
from cbtfs.cli.report.names import SHORT_ID, resolved
from cbtfs.cli.report.output import emit, print_lines, print_table, report
from cbtfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from cbtfs.core.ids import PointId
    from cbtfs.core.retention import Policy
    from cbtfs.forget import Changed, NamedPoint, PointDecision
    from cbtfs.prune.result import PruneResult
    from cbtfs.store.repository import Repository

_RULES = "Rules"


def add_to(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "cbtfs forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run",
            "cbtfs forget web01 --keep-within 14d --prune",
            "cbtfs forget web01@2026-11-22T00-15-03Z",
        )
    )(forget)
    app.command(epilog=example("cbtfs protect web01@latest", "cbtfs protect --off web01@latest"))(
        protect
    )
    app.command(
        epilog=example("cbtfs tag web01@latest release", "cbtfs tag web01@latest --remove release")
    )(tag)


def _count(name: str, what: str) -> Any:
    return typer.Option(f"--keep-{name}", metavar="N", min=0, show_default=False, help=what)


def forget(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[VM|POINT]…",
            show_default=False,
            help="With --keep rules: VMs to apply them to (default: all). Without: points to "
            "forget, by exact time or id.",
        ),
    ] = None,
    last: Annotated[int, _count("last", "Keep the N points captured last.")] = 0,
    hourly: Annotated[
        int, _count("hourly", "Keep the newest point of each of the N newest hours.")
    ] = 0,
    daily: Annotated[
        int, _count("daily", "Keep the newest point of each of the N newest days.")
    ] = 0,
    weekly: Annotated[
        int, _count("weekly", "Keep the newest point of each of the N newest weeks.")
    ] = 0,
    monthly: Annotated[
        int, _count("monthly", "Keep the newest point of each of the N newest months.")
    ] = 0,
    yearly: Annotated[
        int, _count("yearly", "Keep the newest point of each of the N newest years.")
    ] = 0,
    within: Annotated[
        str | None,
        typer.Option(
            "--keep-within",
            metavar="PERIOD",
            show_default=False,
            help="Keep points at most this much older than the one captured last: 12h, 7d, 2w, "
            "6mo or 1y.",
        ),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-tag", metavar="T", show_default=False, help="Keep points with this tag."
        ),
    ] = None,
    min_age: Annotated[
        str | None,
        typer.Option(
            "--min-age",
            metavar="PERIOD",
            show_default=False,
            help="Keep points younger than this, by the clock: 12h, 7d, 2w, 6mo or 1y.",
        ),
    ] = None,
    time_zone: Annotated[
        str,
        typer.Option(
            "--time-zone",
            metavar="ZONE",
            help="Time zone in which hours, days, weeks, months and years begin, e.g. "
            "Europe/Berlin.",
        ),
    ] = "UTC",
    missing: Annotated[
        bool,
        typer.Option(
            "--missing",
            help="Give up points whose manifests are missing; name them by their full ids.",
        ),
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Run prune afterwards.")] = False,
    dry_run: DryRun = False,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Remove restore points by retention policy or by name.

    With --keep rules, every point that no rule keeps is forgotten. Points can be forgotten in any
    order; the others do not change. Protected points are kept. Disk space is reclaimed by prune,
    and until then 'cbtfs unforget' brings a point back.
    """
    from cbtfs.core.retention import Policy
    from cbtfs.listing import zone_of
    from cbtfs.store.missing import give_up, refuse_missing
    from cbtfs.store.repository import writing
    from cbtfs.store.reserve import released

    policy = Policy(
        last,
        hourly,
        daily,
        weekly,
        monthly,
        yearly,
        None if within is None else _period("--keep-within", within),
        frozenset(tags or ()),
        _period("--min-age", min_age or "0h"),
        zone_of(time_zone),
    )
    if policy.keeps_nothing and not names:
        raise UsageError("nothing to forget: give --keep-… rules, or name points")
    if missing and not policy.keeps_nothing:
        raise UsageError(
            "--missing and --keep-… rules are mutually exclusive: name points by their full ids"
        )
    path = readable_path(context) if prune else repository_path(context)
    with released(path), writing(path, lock_wait=lock_wait) as repository:
        decisions: list[PointDecision] = []
        named: list[NamedPoint] = []
        if missing:
            points = _missing(repository, names or [])
        elif policy.keeps_nothing:
            named = _named(repository, names or [])
            points = [named_point.id for named_point in named]
        else:
            decisions, points = _by_rules(repository, names or [], policy)
        if prune and not missing:
            refuse_missing(repository)
        if not dry_run and points and missing:
            give_up(repository, points)
        elif not dry_run and points:
            repository.forget(points)
        result = None
        if prune:
            extra = points if dry_run else []
            result = prune_now(repository, is_dry_run=dry_run, is_quiet=json, without=extra)
    if json:
        document: dict[str, Any] = {
            "dry_run": dry_run,
            "time_zone": time_zone,
            "forgotten": points,
            "points": [_of_decision(point_decision) for point_decision in decisions],
            "named": [_of_named(named_point) for named_point in named],
            "prune": None if result is None else prune_document(result),
        }
        emit(document)
    elif dry_run or not display().is_quiet:
        _print_forgotten(decisions, named, points, result, dry_run=dry_run)
    if result is not None:
        conclude(result)


def _print_forgotten(
    decisions: Sequence[PointDecision],
    named: Sequence[NamedPoint],
    points: Sequence[PointId],
    result: PruneResult | None,
    *,
    dry_run: bool,
) -> None:
    if decisions:
        print_table(("vm", "time", "", "why", "point"), map(_row, decisions))
    print_lines(_line_of(named_point) for named_point in named)
    print_lines([f"{len(points)} {'would be ' if dry_run else ''}forgotten"])
    if result is not None:
        print_result(result)


def _period(option: str, text: str) -> timedelta:
    from cbtfs.core.units import parse_retention

    try:
        return parse_retention(text)
    except ValueError as exc:
        raise UsageError(f"invalid {option} {exc}") from exc


def _named(repository: Repository, names: Sequence[str]) -> list[NamedPoint]:
    from cbtfs.forget import is_vm, to_forget

    for name in names:
        if is_vm(repository, name):
            raise UsageError(
                f"{name} is a VM: add --keep-… rules, or name points by exact time or id"
            )
    return to_forget(repository, names)


def _missing(repository: Repository, ids: Sequence[str]) -> list[PointId]:
    from cbtfs.forget import to_give_up

    return to_give_up(repository, ids)


def _of_named(named: NamedPoint) -> dict[str, Any]:
    from cbtfs.cli.report.documents import of_resolved

    return {"id": named.id, **({} if named.point is None else of_resolved(named.point))}


def _line_of(named: NamedPoint) -> str:
    return f"point {named.id}" if named.point is None else resolved(named.point)


def _by_rules(
    repository: Repository, names: Sequence[str], policy: Policy
) -> tuple[list[PointDecision], list[PointId]]:
    from datetime import UTC, datetime

    from cbtfs.forget import decide_points

    decisions = decide_points(repository, names, policy, datetime.now(UTC))
    return decisions, [
        point_decision.decision.point
        for point_decision in decisions
        if not point_decision.decision.is_kept
    ]


def _of_decision(item: PointDecision) -> dict[str, Any]:
    manifest = item.point.manifest
    return {
        "id": manifest.point,
        "vm": manifest.vm.name,
        "time": manifest.time,
        "is_kept": item.decision.is_kept,
        "reasons": list(item.decision.reasons),
    }


def _row(item: PointDecision) -> tuple[str, ...]:
    manifest, decision = item.point.manifest, item.decision
    return (
        item.point.vm_label or manifest.vm.name,
        manifest.name,
        "keep" if decision.is_kept else "forget",
        ", ".join(decision.reasons) or "no rule keeps it",
        manifest.point[:SHORT_ID],
    )


def protect(
    context: typer.Context,
    point: PointName,
    off: Annotated[bool, typer.Option("--off", help="Remove the protection.")] = False,
    time_zone: TimeZone = LOCAL,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Protect a restore point from forget, or remove the protection.

    A protected point is kept by rules and refused by name until --off is given.
    """
    from cbtfs.forget import protect as protect_point
    from cbtfs.listing import current_clock
    from cbtfs.store.repository import writing

    clock = current_clock(time_zone)
    with writing(repository_path(context), lock_wait=lock_wait) as repository:
        changed = protect_point(repository, point, clock, is_protected=not off)
    _report(changed, as_json=json)


def tag(
    context: typer.Context,
    point: PointName,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="T…", show_default=False, help="Tags to add.")
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="T", show_default=False, help="Tag to remove."),
    ] = None,
    time_zone: TimeZone = LOCAL,
    lock_wait: LockWait = 0.0,
    json: Json = False,
) -> None:
    """Add tags to a restore point, or remove them.

    'forget --keep-tag' keeps points by tag. The tag 'acknowledged' silences the alert about a
    suspect point.
    """
    from cbtfs.forget import tag as tag_point
    from cbtfs.listing import current_clock
    from cbtfs.store.repository import writing

    clock = current_clock(time_zone)
    if not all(tags or ()):
        raise UsageError("empty tag: use a name such as release")
    with writing(repository_path(context), lock_wait=lock_wait) as repository:
        changed = tag_point(repository, point, clock, tags or (), remove or ())
    _report(changed, as_json=json)


def _report(changed: Changed, *, as_json: bool) -> None:
    point, state = changed.point, changed.state
    if as_json:
        from cbtfs.cli.report.documents import of_resolved

        members = {"is_protected": state.is_protected, "tags": list(state.tags)}
        emit({"point": state.point, **of_resolved(point), **members})
        return
    protected = "protected" if state.is_protected else "not protected"
    tags = ", ".join(state.tags) or "none"
    report([f"point {state.point} ({point.spelled}): {protected}, tags: {tags}"])
