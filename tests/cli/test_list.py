"""`cbtfs list`: the table fits the terminal, times are local, points are filtered and sorted."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cbtfs.cli.report.table import display_width
from cbtfs.core.manifest import Counts, Manifest, PointState
from cbtfs.core.reasons import FullReason
from cbtfs.store.repository import writing
from tests.cli.run_cbtfs import Run
from tests.make_points import BLOCK, add_point

DATA = b"\1" * BLOCK
LONG = "database-production-cluster-node-01"
WIDE = "日本語サーバー"


@pytest.fixture(autouse=True)
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _add(repository: Path, moment: str, vm: str = "web01", stored: int = 0) -> Manifest:
    def change(manifest: Manifest) -> Manifest:
        name = moment.replace(":", "-")
        disks = [replace(d, counts=Counts(stored_bytes=stored)) for d in manifest.disks]
        return replace(manifest, time=moment, name=name, disks=tuple(disks))

    return add_point(repository, {"root": DATA, "data": DATA}, vm=vm, change=change)


def _listed(run: Run, *words: str) -> list[str]:
    return [point["id"] for point in run("list", "--json", *words).document["points"]]


@pytest.fixture
def points(repository: Path) -> list[Manifest]:
    """Three days of one VM, with states and tags, and two VMs with long and wide names."""
    manifests = [
        _add(repository, f"2026-11-2{day}T23:30:00Z", stored=(4 - day) << 20) for day in (1, 2, 3)
    ]
    manifests += [
        _add(repository, "2026-11-22T12:00:00Z", vm, stored=7 << 20) for vm in (LONG, WIDE)
    ]
    with writing(repository) as opened:
        opened.points.put_state(
            PointState(manifests[1].point, is_protected=True, tags=("before-upgrade", "keep"))
        )
    with writing(repository):
        """Opening for writing takes note of the state."""
    return manifests


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 50, 40, 30])
def test_lines_fit_and_names_and_ids_are_whole(
    run: Run, points: list[Manifest], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))

    listed = run("list").out

    longest_name = max(display_width(point.vm.name) for point in points)
    assert max(map(display_width, listed.splitlines())) <= max(width, longest_name)
    for point in points:
        assert point.point[:12] in listed
        assert point.vm.name in listed


def test_eighty_columns_show_day_zone_kind_disks_and_tags(
    run: Run, points: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    lines = run("list", "web01").out.splitlines()

    assert lines[2] == (
        f"web01  Mon 2026-11-23 00:30 CET  full  protected  before-up…  {points[1].point[:12]}"
    )
    assert (
        f"  Sun 2026-11-22 13:00 CET  full  root,data   0 B  14.0 MiB  {points[4].point[:12]}"
        in run("list", WIDE).out
    )


def test_without_a_width_nothing_is_omitted(run: Run, points: list[Manifest]) -> None:
    line = run("list", "web01").out.splitlines()[2]

    assert "Mon 2026-11-23 00:30:00 CET" in line
    assert "before-upgrade,keep" in line
    assert points[1].name in line


def test_a_long_name_is_a_heading_where_columns_would_be_lost(
    run: Run, points: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")

    assert LONG in run("list").out.splitlines()
    assert run("list", "web01").out.splitlines()[1].startswith("web01  ")


def _methods(manifest: Manifest) -> Manifest:
    root, data = manifest.disks
    parent = manifest.point
    root = replace(root, parent=parent, full_reason=FullReason.NO_LIST)
    data = replace(data, parent=parent, ingest="incremental")
    return replace(manifest, disks=(root, data))


def test_a_full_scan_is_no_full(run: Run, repository: Path) -> None:
    """It read everything and stored 10 KiB: nobody should wonder about the size of a full."""
    images = {"root": DATA, "data": DATA}
    add_point(repository, images)
    add_point(repository, images, change=_methods)
    scan = FullReason.TRACKING_RESET
    add_point(
        repository,
        {"root": DATA},
        change=lambda m: replace(m, disks=(replace(m.disks[0], parent=m.point, full_reason=scan),)),
    )

    first, second, third = run("list").out.splitlines()[1:]
    document = run("list", "--json").document["points"]

    assert " full  " in first
    assert " root scan: no list, data incremental  " in second
    assert " scan: tracking reset  " in third
    disks = document[1]["disks"]
    assert [(disk["method"], disk["full_reason"]) for disk in disks] == [
        ("scan", "no_list"),
        ("incremental", None),
    ]
    assert document[1]["kind"] == "full"
    shown = run("show", "vm@latest").out
    assert "\nkind       scan: " in shown
    assert "ingest   scan: " in shown
    assert "\nkind       scan+incremental: " in run("show", "vm@latest~1").out


def test_times_are_those_of_the_time_zone(run: Run, points: list[Manifest]) -> None:
    assert "Sun 2026-11-22 18:30:00 EST" in run("list", "--time-zone=America/New_York").out
    assert "Sun 2026-11-22 23:30:00 UTC" in run("list", "--time-zone=UTC").out
    point = points[1].point
    shown = run("show", point, "--time-zone=America/New_York").out
    assert "time       Sun 2026-11-22 18:30:00 EST (in the mount: " in shown
    assert re.search(r"^committed  \w{3} 2025-12-31 19:00:\d\d EST by ", shown, re.M)
    document = run("show", point, "--time-zone=America/New_York", "--json").document
    assert document["time"] == points[1].time
    assert document["committed"] == points[1].committed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [0, 1, 2]),
        (("--since", "2026-11-23"), [1, 2]),
        (("--until", "2026-11-22"), [0]),
        (("--since", "2026-11-23", "--until", "2026-11-23"), [1]),
        (("--since", "2026-11-23T00:31"), [2]),
        (("--since=2026-11-22T23:30:00Z", "--until=2026-11-22T23:30:00Z"), [1]),
        (("--since", "2026-11-22T23-30-00Z"), [1, 2]),
        (("--since", "2026-11-22", "--time-zone=UTC"), [1, 2]),
        (("--since", "-1d"), []),
        (("--until", "-0d"), [0, 1, 2]),
        (("--last", "1"), [2]),
        (("--last", "2", "--until", "2026-11-23"), [0, 1]),
        (("--last", "9"), [0, 1, 2]),
        (("--sort", "stored"), [2, 1, 0]),
        (("--sort", "time"), [0, 1, 2]),
    ],
)
def test_options_choose_points(
    run: Run, points: list[Manifest], words: tuple[str, ...], expected: list[int]
) -> None:
    assert _listed(run, "web01", *words) == [points[index].point for index in expected]


def test_last_counts_for_each_vm_and_sort_mixes_vms(run: Run, points: list[Manifest]) -> None:
    last = {points[index].point for index in (2, 3, 4)}

    assert set(_listed(run, "--last", "1")) == last
    assert _listed(run, "--sort", "time")[0] == points[0].point
    assert _listed(run, "--sort", "time")[-1] == points[2].point
    assert set(_listed(run, "--sort", "stored")[-2:]) == {points[3].point, points[4].point}


@pytest.mark.parametrize(
    "words",
    [
        ("--sort", "name"),
        ("--last", "0"),
        ("--until", "latest"),
        ("--since", "yesterday"),
        ("--since", "20261120"),
        ("--since", "2026-02-30"),
        ("--since", "0001-01-01T00:00+23:00"),
    ],
)
def test_invalid_options_are_usage_errors(run: Run, words: tuple[str, str]) -> None:
    done = run("list", *words)

    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert words[0] in done.err


def test_an_empty_list_says_so_on_standard_error(run: Run, points: list[Manifest]) -> None:
    done = run("list", "--since", "-1d")

    assert done.out.splitlines() == [done.out.rstrip("\n")]
    assert "no restore points in that period" in done.err


def test_times_at_the_ends_of_the_calendar_are_listed(run: Run, repository: Path) -> None:
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        _add(repository, moment)

    listed = run("list").out

    assert "0001-01-01 00:" in listed
    assert "9999-12-31 23:59:59 UTC" in listed
