"""Several disks at once: `restore --all DIR --jobs N`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cbtfs.core.frame import Kind
from cbtfs.core.manifest import Manifest
from cbtfs.store.digest import chunk_digest
from cbtfs.store.repository import reading, writing
from tests.cli.run_cbtfs import Run, runner
from tests.make_points import BLOCK, SIGNALS, add_point, commit_point, new_repository

DISKS = {name: bytes([n]) * (3 * BLOCK) + bytes(BLOCK) for n, name in enumerate("abcd", 1)}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = new_repository(tmp_path / "repository")
    with writing(path) as opened:
        commit_point(opened, DISKS, vm="web01")
        commit_point(opened, {"root": b"\5" * BLOCK}, vm="web01")
        commit_point(opened, {"root": b"\6" * 777}, vm="db/1")
    return path


@pytest.fixture
def run(repository: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(repository, capsys)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def damage(path: Path, content: bytes) -> None:
    """Flip a bit of the chunk with that content."""
    with reading(path) as opened:
        with opened.catalog.view() as view:
            number = view.find(Kind.CHUNK, 0, chunk_digest(content))
            assert number is not None
            location = view.location(number)
            assert location is not None
            pack = view.pack(location.pack)
            assert pack is not None
        file = opened.packs.path(pack.id)
    data = bytearray(file.read_bytes())
    data[location.frame.payload_offset + 3] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_all_disks_of_several_points_have_the_paths_of_a_mount(
    run: Run, tmp_path: Path, jobs: str
) -> None:
    target = tmp_path / "out"

    done = run("restore", "--all", target, "--jobs", jobs, "web01@latest~1", "web*", "db/1")

    first, second = "2026-01-01T00-00-01Z", "2026-01-01T00-00-02Z"
    assert (done.code, done.err) == (0, "")
    assert files(target) == {
        **{f"web01/{first}/{name}.raw": data for name, data in DISKS.items()},
        f"web01/{second}/root.raw": b"\5" * BLOCK,
        f"db%2F1/{first}/root.raw": b"\6" * 777,
    }


def test_the_document_lists_each_disk_with_its_target(run: Run, tmp_path: Path) -> None:
    done = run("restore", "web01@latest~1", "--all", tmp_path / "out", "--json")

    assert done.code == 0
    assert done.document["failed"] == []
    for restored in done.document["restored"]:
        assert Path(restored["target"]).read_bytes() == DISKS[restored["disk"]]


def test_a_small_file_of_the_vm_comes_along(run: Run, repository: Path, tmp_path: Path) -> None:
    with writing(repository) as opened:
        commit_point(opened, {"web.vmx": b"text"}, vm="files", kind="file")

    assert run("restore", "files", "--all", tmp_path / "out").code == 0

    assert [path.split("/")[-1] for path in files(tmp_path / "out")] == ["web.vmx"]


def test_a_corrupt_disk_does_not_stop_the_others_and_is_21(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    damage(repository, DISKS["b"][:BLOCK])

    done = run("restore", "web01@latest~1", "--all", tmp_path / "out", "--jobs=2", "--json")

    assert done.code == 21
    assert [disk["disk"] for disk in done.document["restored"]] == ["a", "c", "d"]
    (failed,) = done.document["failed"]
    assert (failed["disk"], failed["exit"]) == ("b", 21)
    assert not Path(failed["target"]).exists()
    assert len(files(tmp_path / "out")) == 3


def test_with_keep_going_the_corrupt_extent_is_zeros(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    damage(repository, DISKS["b"][:BLOCK])

    done = run("restore", "web01@latest~1", "--all", tmp_path / "out", "--keep-going", "--json")

    assert (done.code, done.document["failed"]) == (21, [])
    lost = {disk["disk"]: disk["lost"] for disk in done.document["restored"]}
    assert lost["b"] == [{"start": 0, "length": 3 * BLOCK}]
    assert "some bytes were lost" in done.err


def test_a_target_that_exists_is_3_unless_force_is_given(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "out"
    run("restore", "web01@latest~1", "--all", target)
    (file, *_) = sorted(target.rglob("*.raw"))
    for other in sorted(target.rglob("*.raw"))[1:]:
        other.unlink()
    file.write_bytes(b"old")

    assert run("restore", "web01@latest~1", "--all", target).code == 3
    assert file.read_bytes() == b"old"
    assert run("restore", "web01@latest~1", "--all", target).code == 2
    assert run("restore", "web01@latest~1", "--all", target, "--force").code == 0
    assert file.read_bytes() == DISKS["a"]


@pytest.mark.parametrize(
    "arguments",
    [["web01"], ["web01", "root"], ["web01", "root", "x", "y"], ["web01", "--all", "no/folder"]],
)
def test_arguments_that_do_not_fit_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert run("restore", *arguments).code in (1, 2)
    assert os.listdir(tmp_path) == ["repository"]


def test_a_directory_inside_the_repository_is_refused(run: Run, repository: Path) -> None:
    before = sorted(repository.rglob("*"))

    assert run("restore", "web01", "--all", repository / "out").code == 2
    assert sorted(repository.rglob("*")) == before


def test_two_disks_of_a_pattern_stop_at_the_first_error(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    damage(repository, DISKS["a"][:BLOCK])
    folder = tmp_path / "out"
    folder.mkdir()

    done = run("restore", "web01@latest~1", "*", folder, "--json")

    assert (done.code, done.document["error"]["code"]) == (21, 21)


def test_an_interrupt_ends_all_disks_and_leaves_no_partial_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = new_repository(tmp_path / "repository", 1 << 20)
    block = os.urandom(1 << 20)
    points: list[Manifest] = []
    images = {f"d{n}": b"".join(bytes([n, m]) + block[2:] for m in range(16)) for n in range(4)}
    points.append(add_point(repository, images))
    command = [*SIGNALS, sys.executable, "-m", "cbtfs", f"--repo={repository}", "restore"]
    target = tmp_path / "out"
    with subprocess.Popen(
        [*command, "vm", "--all", target, "--jobs=4"], stderr=subprocess.PIPE, text=True
    ) as child:
        while child.poll() is None and not list(target.rglob("*.partial")):
            pass
        child.send_signal(signal.SIGINT)
        _, err = child.communicate()

    assert child.returncode in (0, 130)
    assert ("interrupted" in err) == (child.returncode == 130)
    assert not list(target.rglob("*.partial"))
    assert runner(repository, capsys)("restore", "vm", "--all", target, "--force").code == 0
    assert {p.stem: p.read_bytes() for p in target.rglob("*.raw")} == images
