"""Names of points and VMs, as commands take and print them."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cbtfs.core.moment import format_moment
from tests.cli.run_cbtfs import Run
from tests.naming import Names, vm_of

A, B = vm_of("a", "web1"), vm_of("b", "web1")


@pytest.fixture
def names(repository: Path) -> Names:
    return Names(repository)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


def ids(document: Any) -> list[str]:
    return [point["id"] for point in document["points"]]


@pytest.mark.parametrize(
    ("spec", "day"),
    [
        ("web01", 4),
        ("web01@latest", 4),
        ("web01@latest~2", 2),
        ("web01@good", 4),
        ("web01@2020-01-03", 2),
        ("web01@2020-01-03T11:59", 1),
        ("web01@2020-01-03T12:00", 2),
        ("web01@2020-01-03T12:00:00Z", 2),
        ("web01@2020-01-03T13:00:00+01:00", 2),
        ("web01@2020-01-03T11:59:59.999999-00:00", 1),
        ("web01@2020-01-03T12-00-00Z", 2),
        ("web01@-1min", 4),
    ],
)
def test_every_form_means_one_point(run: Run, names: Names, spec: str, day: int) -> None:
    points = names.daily(5)

    done = run("show", spec, "--json")

    assert (done.code, done.err) == (0, "")
    assert done.document["id"] == points[day].point


def test_a_point_in_the_last_second_counts_and_ids_are_names(run: Run, names: Names) -> None:
    point = names.add("2020-01-01T14:00:03.5Z")
    names.add("2020-01-01T14:00:04Z")

    for spec in ("web01@2020-01-01T14:00:03", point.point[:9], f"web01@{point.point[:9]}"):
        assert run("show", spec, "--json").document["id"] == point.point
    assert run("show", "web01@2020-01-01T14:00:03.499999").code == 13


def test_relative_names_ask_the_clock_and_nothing_else_does(run: Run, names: Names) -> None:
    now = datetime.now(UTC)
    old = names.add(format_moment(now - timedelta(hours=37)))
    new = names.add(format_moment(now - timedelta(hours=35)))

    assert run("show", "web01@-36h", "--json").document["id"] == old.point
    assert run("show", "web01@-1d", "--json").document["id"] == new.point
    assert run("show", "web01@-2w").code == 13


def test_a_time_is_local_unless_it_has_an_offset(run: Run, names: Names) -> None:
    early, late = names.add("2020-01-01T22:30:00Z"), names.add("2020-01-01T23:30:00Z")

    def shown(*arguments: str) -> str:
        point_id: str = run("show", *arguments, "--json").document["id"]
        return point_id

    assert shown("web01@2020-01-01") == late.point
    assert shown("web01@2020-01-01", "--time-zone", "Europe/Berlin") == early.point
    assert shown("web01@2020-01-01Z", "--time-zone", "Europe/Berlin") == late.point
    assert run("show", "web01", "--time-zone", "Mars/Olympus").code == 2


def test_the_error_names_the_nearest_point(run: Run, names: Names) -> None:
    names.daily(3)

    before = run("show", "web01@2019-06-01")
    spelled = run("show", "web01@2020-01-02T11-00-00Z")
    far = run("show", "web01@latest~3")

    assert [result.code for result in (before, spelled, far)] == [13] * 3
    assert "the nearest is web01@2020-01-01T12-00-00Z" in before.err
    assert "the nearest is web01@2020-01-02T12-00-00Z" in spelled.err
    assert "has 3 points; the nearest is web01@2020-01-01T12-00-00Z" in far.err
    assert all(len(result.err.splitlines()) == 1 for result in (before, spelled, far))


def test_a_good_point_is_neither_damaged_nor_suspect(run: Run, names: Names) -> None:
    points = names.daily(3)
    for point in points[1:]:
        (names.path / "points" / f"{point.point}.state").unlink()
    names.add("2020-01-01T00:00:00Z", vm_of("c", "other"))

    assert run("show", "web01@good", "--json").document["id"] == points[0].point
    (names.path / "points" / f"{points[0].point}.state").unlink()
    names.add("2020-01-02T00:00:00Z", vm_of("c", "other"))
    none = run("show", "web01@good")
    assert (none.code, "damaged or suspect" in none.err) == (13, True)


@pytest.mark.parametrize("name", ["a@b", "c:d", "e/f", "w*", "[x]?", "@", "deadbeef", "0" * 32])
def test_any_name_of_a_vm_can_be_written(run: Run, names: Names, name: str) -> None:
    names.add("2020-01-01T00:00:00Z", vm_of("d", "w1"))
    point = names.add("2020-01-01T00:00:00Z", vm_of("e", name))
    directory = run("show", point.point, "--json").document["vm"]["directory"]

    for spec in (name, f"{name}@latest", f"{name}@2020-01-01", f"{directory}@{point.name}"):
        assert run("show", spec, "--json").document["id"] == point.point
    assert ids(run("list", name, "--json").document) == [point.point]
    assert ids(run("stats", name, "--json").document) == [point.point]


def test_the_last_at_sign_splits_where_the_rest_is_a_name(run: Run, names: Names) -> None:
    plain = names.add("2020-01-01T00:00:00Z", vm_of("a", "web"))
    names.add("2020-01-01T00:00:00Z", vm_of("b", "web@latest"))

    assert run("show", "web@latest", "--json").document["id"] == plain.point
    assert run("show", "web@latest@latest", "--json").document["vm"]["id"] == "b" * 32


def test_near_misses_are_suggested(run: Run, names: Names) -> None:
    names.daily(1)

    assert "no VM 'web1': did you mean web01?" in run("list", "web1").err
    assert "no VM 'WEB1': did you mean web01?" in run("show", "WEB1@latest").err
    assert "did you mean web01?" in run("restore", "web1", "disk", "x").err
    assert "did you mean disk?" in run("extents", "web01", "dsk").err
    assert "cbtfs list" in run("show", "mail@latest").err


def test_patterns_take_every_vm_that_matches(run: Run, names: Names, tmp_path: Path) -> None:
    web, web2 = vm_of("a", "web01"), vm_of("b", "web02")
    first = names.add("2020-01-01T00:00:00Z", web)
    second = names.add("2020-01-02T00:00:00Z", web2)
    other = names.add("2020-01-02T00:00:00Z", vm_of("c", "db"))

    assert ids(run("list", "web*", "--json").document) == [first.point, second.point]
    assert ids(run("stats", "web*", "--json").document) == [first.point, second.point]
    assert ids(run("stats", "*@2020-01-01", "--json").document) == [first.point]
    assert ids(run("show", "*", "--json").document) == [other.point, first.point, second.point]
    assert run("show", "web0?@2020-01-01", "--json").document["id"] == first.point
    assert run("show", "mail*").code == run("list", "mail*").code == 13

    (tmp_path / "out").mkdir()
    done = run("restore", "web*", "*", tmp_path / "out", "--json")
    assert [item["vm"] for item in done.document["restored"]] == ["web01", "web02"]
    assert (tmp_path / "out/web02/disk.raw").read_bytes() == second.time.encode()
    assert run("restore", "web*", "disk", tmp_path / "file").code == 2
    assert run("restore", "web*1", "d*", tmp_path / "file").code == 0
    assert (tmp_path / "file").read_bytes() == first.time.encode()
    assert run("forget", "web*", "--keep-last", "1").code == 13


def test_protect_and_tag_take_all_forms_and_say_which(run: Run, names: Names) -> None:
    points = names.daily(3)

    protected = run("protect", "web01@2020-01-02", "--json").document
    tagged = run("tag", "web01@latest~2", "release")

    assert protected == {
        "point": points[1].point,
        "vm": "web01",
        "time": points[1].time,
        "name": points[1].name,
        "is_protected": True,
        "tags": [],
    }
    assert f"point {points[0].point} (web01@{points[0].name})" in tagged.out


def test_points_forgotten_by_name_are_reported(run: Run, names: Names) -> None:
    points = names.daily(3)
    refused = run("forget", "web01@-30d")
    words = run("forget", f"web01@{points[0].time}", "--dry-run").out
    document = run("forget", f"web01@{points[0].name}", points[1].point, "--json").document

    assert (refused.code, "now it means web01@2020-01-03T12-00-00Z" in refused.err) == (2, True)
    assert f"web01@{points[0].name} (point {points[0].point[:12]})" in words
    assert [(item["id"], item["vm"]) for item in document["named"]] == [
        (point.point, "web01") for point in points[:2]
    ]


def test_restore_says_which_point_it_took(run: Run, names: Names, tmp_path: Path) -> None:
    points = names.daily(2)

    words = run("restore", "web01@2020-01-01", "disk", tmp_path / "a")
    document = run("restore", "web01", "disk", tmp_path / "b", "--json").document

    assert f"web01@{points[0].name} (point {points[0].point[:12]}), disk disk" in words.out
    assert document["name"] == points[1].name


# Two VMs with one name


def _vm_ids(run: Run, *names: str) -> list[str]:
    return [run("show", name, "--json").document["vm"]["id"][0] for name in names]


def test_a_vm_that_is_renamed_and_its_successor(run: Run, names: Names) -> None:
    names.add("2020-01-01T00:00:00Z", A)
    names.add("2020-01-02T00:00:00Z", vm_of("a", "web1-old"))
    assert _vm_ids(run, "web1", "web1-old") == ["a", "a"]

    names.add("2020-01-03T00:00:00Z", B)

    assert _vm_ids(run, "web1", "web1-old", "web1~aaaaaaaa", "web1~aaaa", "b" * 32) == [*"baaab"]
    listed = run("list", "--json").document["points"]
    assert [(item["vm"], item["label"]) for item in listed] == [
        ("web1", "web1"),
        ("web1", "web1-old"),
        ("web1-old", "web1-old"),
    ]
    assert "web1-old (was web1)" in run("list").out


def test_a_vm_that_is_made_again_and_its_predecessor(run: Run, names: Names) -> None:
    first = names.add("2020-01-01T00:00:00Z", A)
    second = names.add("2020-01-03T00:00:00Z", B)

    assert _vm_ids(run, "web1", "web1~aaaaaaaa", "web1~aaaaaaaa@2020-01-01") == ["b", "a", "a"]
    assert ids(run("list", "web1", "--json").document) == [second.point]
    before = run("show", "web1@2020-01-02")
    assert before.code == 13
    assert "the nearest is web1@2020-01-03T00-00-00Z" in before.err
    assert "has web1~aaaaaaaa@2020-01-01T00-00-00Z" in before.err
    assert "has web1~aaaaaaaa@2020-01-01T00-00-00Z" in run("show", f"web1@{first.name}").err
    assert (
        run("protect", "web1~aaaaaaaa").code == run("protect", "--off", "web1~aaaaaaaa").code == 0
    )
    assert run("forget", "web1~aaaaaaaa@2020-01-01T00-00-00Z").code == 0
    assert run("forget", "web1", "--keep-last", "1").code == 0


def test_another_vm_that_comes_to_the_name_of_a_renamed_one(run: Run, names: Names) -> None:
    names.add("2020-01-01T00:00:00Z", A)
    names.add("2020-01-02T00:00:00Z", vm_of("a", "web1-prod"))
    names.add("2020-01-03T00:00:00Z", vm_of("b", "web1-prod"))

    assert _vm_ids(run, "web1-prod", "web1-prod~aaaaaaaa", "web1") == ["b", "a", "a"]
    assert run("protect", "web1@latest").code == 0


# Ingest


def _ingest(run: Run, image: Path, *options: str, vm: str = "web01") -> Any:
    done = run("ingest", "image", f"--vm={vm}", "--disk=disk", "--json", *options, image)
    assert done.code == 0, done.err
    return done.document


def test_an_older_image_moves_neither_latest_nor_the_base(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(8192) + b"new" * 4096)
    last = _ingest(run, image)["point"]
    image.write_bytes(b"old" * 4096 + bytes(8192))
    imported = _ingest(run, image, "--time=2020-01-01T00:00:00Z", "--full")["point"]

    assert run("show", "web01@latest", "--json").document["id"] == last
    assert run("show", "web01@latest~1", "--json").document["id"] == imported
    listed = run("list", "--json").document["points"]
    assert [(e["id"], e["time_source"], e["is_out_of_order"]) for e in listed] == [
        (last, "clock", False),
        (imported, "given", True),
    ]
    assert "out-of-order" in run("list").out.splitlines()[2]

    image.write_bytes(b"NEW" + image.read_bytes()[3:])
    changes = tmp_path / "changes"
    changes.write_text(json.dumps([{"start": 0, "length": 3}]))
    _ingest(run, image, "--changed", str(changes))
    shown = run("show", "web01", "--json").document
    assert shown["disks"][0]["parent"] == imported  # the point captured last, not latest
    assert shown["order"] == 3
    assert shown["disks"][0]["kind"] == "incremental"
    assert run("restore", "web01", "disk", tmp_path / "back").code == 0
    assert (tmp_path / "back").read_bytes() == image.read_bytes()


def test_retention_follows_the_order_of_capture(run: Run, repository: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"x")
    by_clock = _ingest(run, image)["point"]
    imported = _ingest(run, image, "--time=2020-01-01T00:00:00Z")["point"]

    done = run("forget", "--keep-tag", "none", "--dry-run", "--json").document
    reasons = {item["id"]: item["reasons"] for item in done["points"]}
    assert reasons[imported] == ["captured last"]
    assert by_clock in reasons


def test_ingest_warns_when_a_name_changes_hands(
    run: Run, names: Names, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"x")
    names.add("2020-01-01T00:00:00Z", replace(A, vcenter="vc", instance_uuid="uuid"))

    _ingest(run, image, vm="web1")
    assert "name 'web1' changed hands" in caplog.text
    assert "web1~aaaaaaaa" in caplog.text
    caplog.clear()
    _ingest(run, image, vm="web1")
    assert caplog.text == ""
    assert run("show", "web1", "--json").document["vm"]["vcenter"] is None


def test_a_time_a_little_ahead_of_the_clock_is_taken(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"x")
    ahead = datetime.now(UTC) + timedelta(minutes=9)
    far = datetime.now(UTC) + timedelta(minutes=11)

    _ingest(run, image, f"--time={format_moment(ahead)}")
    refused = run("ingest", "image", "--vm=v", "--disk=d", f"--time={format_moment(far)}", image)
    assert (refused.code, "ten minutes ahead" in refused.err) == (2, True)
