"""`overlay create`, `list` and `discard`: the directory of an overlay and its pin."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from cbtfs.cli.main import main
from cbtfs.core.overlay import JOINT_FORMAT, decode_overlay, encode_overlay
from cbtfs.core.sealed import seal, unseal
from cbtfs.overlay import create
from cbtfs.overlay.create import discard_lost
from cbtfs.overlay.folder import overlay_folder
from cbtfs.store.identity import new_id
from cbtfs.store.pins import load_pins
from tests.overlay.overlay_site import OverlaySite

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(site: OverlaySite, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command with --json in this process; return its exit code and document."""

    def run(*words: str) -> tuple[int, Any]:
        code = main([f"--repo={site.repository}", "--json", *words])
        return code, json.loads(capsys.readouterr().out)

    return run


def act(site: OverlaySite, action: str, *words: str) -> list[str]:
    return ["overlay", action, *words, f"--dir={site.directory}"]


def create_lab(site: OverlaySite, run: Run, *options: str) -> Any:
    code, document = run(*act(site, "create", site.point.point, "lab", *options))
    assert code == 0, document
    return document


def test_an_overlay_has_an_image_for_each_disk_and_pins_its_point(
    site: OverlaySite, run: Run
) -> None:
    create_lab(site, run)
    newer = site.add()

    assert sorted(os.listdir(site.overlay)) == ["data.qcow2", "overlay.json", "root.qcow2"]
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", site.overlay / "data.qcow2"],
        capture_output=True,
        check=True,
    )
    image = json.loads(info.stdout)
    assert "backing-filename" not in image
    assert image["virtual-size"] == -(-len(site.images["data"]) // 512) * 512
    code, document = run("forget", "--keep-last=1")
    assert code == 0
    assert document["forgotten"] == []
    reasons = {item["id"]: item["reasons"] for item in document["points"]}
    assert reasons == {newer.point: ["last 1 of 1"], site.point.point: ["overlay lab"]}
    assert run("forget", site.point.point)[0] == 1


def test_a_discarded_overlay_releases_its_point(site: OverlaySite, run: Run) -> None:
    create_lab(site, run)
    site.add()

    assert run(*act(site, "discard", "lab"))[0] == 0

    assert os.listdir(site.directory) == []
    assert load_pins(site.repository) == []
    assert run("forget", site.point.point)[1]["forgotten"] == [site.point.point]


def test_the_list_shows_states_and_lost_overlays(site: OverlaySite, run: Run) -> None:
    create_lab(site, run)
    run(*act(site, "create", "web01", "gone"))
    shutil.rmtree(site.directory / "gone")

    code, document = run("overlay", "list")

    assert code == 0
    states = {item["overlay"]: item["state"] for item in document["overlays"]}
    assert states == {"gone": "lost", "lab": "stopped"}
    assert run(*act(site, "list"))[1] == document
    assert run("overlay", "list", "--dir=/srv")[1] == {"overlays": []}
    assert run(*act(site, "discard", "gone"))[0] == 13
    assert run(*act(site, "discard", "gone", "--lost"))[0] == 0
    assert [pin.name for pin in load_pins(site.repository)] == ["lab"]


def test_only_a_lost_overlay_is_discarded_as_lost(site: OverlaySite, run: Run) -> None:
    create_lab(site, run)

    assert run(*act(site, "discard", "lab", "--lost"))[0] == 2
    assert run(*act(site, "discard", "other", "--lost"))[0] == 13
    (site.overlay / "overlay.json").write_bytes(b"{}")
    assert run("overlay", "list")[1]["overlays"][0]["state"] == "damaged"
    assert run(*act(site, "discard", "lab", "--lost"))[0] == 0
    assert load_pins(site.repository) == []


HOSTILE: Final = ("", ".", "..", ".hidden", "-x", "a/b", "a b", "ä", "x" * 65, "a\n")


def test_hostile_names_and_limits_without_space_are_refused(site: OverlaySite, run: Run) -> None:
    for name in HOSTILE:
        code, document = run(*act(site, "create"), "--", site.point.point, name)
        assert code == 2
        assert "\n" not in document["error"]["message"]
    for limit in ("0", "1K", "x", "-1"):
        assert run(*act(site, "create", site.point.point, "lab", f"--limit={limit}"))[0] == 2

    assert load_pins(site.repository) == []
    assert os.listdir(site.directory) == []


def test_a_newer_overlay_is_neither_damaged_nor_lost(site: OverlaySite, run: Run) -> None:
    create_lab(site, run)
    record = site.overlay / "overlay.json"
    record.write_bytes(seal({**unseal(record.read_bytes()), "format": JOINT_FORMAT + 1}))

    for words in (act(site, "start", "lab"), act(site, "discard", "lab", "--lost")):
        code, document = run(*words)
        assert code == 12
        assert "upgrade cbtfs" in document["error"]["message"]
    assert len(load_pins(site.repository)) == 1


def test_an_overlay_inside_the_repository_is_refused(site: OverlaySite, run: Run) -> None:
    link = site.repository.with_name("link")
    link.symlink_to(site.repository)

    for directory in (site.repository, site.repository / "new", link / "points"):
        words = ("overlay", "create", site.point.point, "lab", f"--dir={directory}")
        assert run(*words)[0] == 2

    assert load_pins(site.repository) == []


def test_an_overlay_is_created_once(site: OverlaySite, run: Run) -> None:
    create_lab(site, run)
    before = (site.overlay / "overlay.json").read_bytes()

    assert run(*act(site, "create", site.point.point, "lab"))[0] == 2

    assert (site.overlay / "overlay.json").read_bytes() == before
    assert os.listdir(site.directory) == ["lab"]
    assert len(load_pins(site.repository)) == 1


def test_an_overlay_of_another_repository_is_refused(site: OverlaySite, run: Run) -> None:
    create_lab(site, run)
    record = site.overlay / "overlay.json"
    overlay = decode_overlay(record.read_bytes())
    record.write_bytes(encode_overlay(replace(overlay, repository=new_id())))

    for action in ("start", "commit", "discard"):
        code, document = run(*act(site, action, "lab"))
        assert code == 33
        assert "another one" in document["error"]["message"]


class Crash(BaseException):
    """Raised in place of a step, to simulate the end of the program."""


@pytest.mark.parametrize("step", ["create_image", "put_if_absent", "put_pin", "sync_folder"])
def test_a_killed_create_leaves_nothing_that_the_next_one_needs_removed(
    site: OverlaySite, run: Run, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(create, step, crash)
        patch.setattr(shutil, "rmtree", crash)  # a killed program cleans nothing up
        with pytest.raises(Crash):
            main([f"--repo={site.repository}", *act(site, "create", site.point.point, "lab")])
    if step == "sync_folder":  # the overlay has its name
        run(*act(site, "discard", "lab"))

    create_lab(site, run)

    assert os.listdir(site.directory) == ["lab"]
    assert len(load_pins(site.repository)) == 1


@pytest.mark.parametrize("step", ["remove_pin", "rmtree"])
def test_a_killed_discard_is_completed(
    site: OverlaySite, run: Run, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_lab(site, run)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(shutil if step == "rmtree" else create, step, crash)
        with pytest.raises(Crash):
            main([f"--repo={site.repository}", *act(site, "discard", "lab")])
    if step == "remove_pin":
        assert len(discard_lost(site.repository, overlay_folder(site.directory, "lab"))) == 1

    create_lab(site, run)
    run(*act(site, "discard", "lab"))

    assert load_pins(site.repository) == []
    assert os.listdir(site.directory) == []
