"""`restore --in-place`: reports, exit codes and options that exclude it."""

from pathlib import Path

import pytest

from cbtfs.core.sealed import unseal
from tests.cli.run_cbtfs import Run, runner
from tests.make_points import BLOCK, add_point, new_repository
from tests.restore.test_several_disks import damage

_OLD = b"1" * 5 * BLOCK
_NEW = b"1" * 2 * BLOCK + bytes(BLOCK) + b"2" * 2 * BLOCK


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    repository = new_repository(tmp_path / "repository")
    for image in (_OLD, _NEW):
        add_point(repository, {"d": image, "e": image}, vm="web")
    return runner(repository, capsys)


def test_a_target_follows_the_disk(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(bytes(5 * BLOCK) + b"rest")
    words = "restore", "--in-place", "web@latest", "d", target

    first = run("restore", "--in-place", "web@latest~1", "d", target, "--verify")
    second = run(*words, "--from", "web@latest~1", "--json")

    assert first.code == second.code == 0
    assert "written" in first.out
    assert "verified" in first.out
    assert "4 bytes after the end of the disk are left alone" in first.err
    assert target.read_bytes() == _NEW + b"rest"
    assert second.document["bytes_written"] == 3 * BLOCK
    assert second.document["bytes_skipped"] == 2 * BLOCK
    assert second.document["from"] is not None


@pytest.mark.parametrize(("is_missing", "code"), [(False, 21), (True, 20)])
def test_data_that_is_lost_ends_the_run_before_the_target_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_missing: bool, code: int
) -> None:
    repository, target = new_repository(tmp_path / "lost"), tmp_path / "disk.raw"
    add_point(repository, {"d": _NEW}, vm="web")
    damage(repository, b"2" * BLOCK)
    if is_missing:
        for pack in (repository / "packs").rglob("*"):
            if pack.is_file() and pack.name != "cbtfs-packs":
                pack.unlink()
    run = runner(repository, capsys)
    target.write_bytes(bytes(5 * BLOCK))
    words = "restore", "--in-place", "web", "d", target
    lost = [{"start": 0, "length": 2 * BLOCK}] if is_missing else []

    stopped = run(*words)
    state = unseal(Path(f"{target}.cbtfs").read_bytes())["state"]
    done = run(*words, "--keep-going", "--json")

    assert (stopped.code, len(stopped.err.splitlines()), state) == (code, 1, "applying")
    assert "is incomplete" in stopped.err
    assert done.code == code
    assert done.document["lost"] == [*lost, {"start": 3 * BLOCK, "length": 2 * BLOCK}]
    kept = bytes(2 * BLOCK) if is_missing else _NEW[: 2 * BLOCK]
    assert target.read_bytes() == kept + bytes(3 * BLOCK)
    assert unseal(Path(f"{target}.cbtfs").read_bytes())["state"] == "applying"


def test_a_target_that_is_too_small_is_2(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(_OLD[:-1])

    done = run("restore", "--in-place", "web", "d", target)

    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "is too small" in done.err
    assert target.read_bytes() == _OLD[:-1]


def test_a_target_without_a_marker_is_33(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(_OLD)

    done = run("restore", "--in-place", "--from", "web@latest~1", "web@latest", "d", target)

    assert done.code == 33
    assert "use --compare" in done.err
    assert len(done.err.splitlines()) == 1
    assert target.read_bytes() == _OLD


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--in-place", "--force", "web", "d", "TARGET"), "--force are mutually exclusive"),
        (("--in-place", "--all", "TARGET", "web"), "--all are mutually exclusive"),
        (("--in-place", "--compare", "--from=web", "web", "d", "TARGET"), "mutually exclusive"),
        (("--in-place", "web", "d", "-"), "mutually exclusive"),
        (("--in-place", "web", "d"), "not 2 arguments"),
        (("--in-place", "web", "*", "TARGET"), "one disk at a time"),
        (("--in-place", "web", "d", "TARGET.none"), "does not exist"),
        (("--compare", "web", "d", "TARGET"), "--compare needs --in-place"),
        (("--from=web", "web", "d", "TARGET"), "--from needs --in-place"),
        (("--in-place", "--marker", "web", "d", "TARGET"), "--marker are mutually exclusive"),
        (("--all", "web"), "--all web: no points given; use restore --all DIR POINT"),
        ((), "restore takes POINT DISK TARGET, not 0 arguments"),
        (("--marker", "web", "d", "-"), "only a file has a marker"),
        (("--marker", "--to=qcow2", "web", "d", "TARGET.new"), "--to and --marker are mutually"),
        (("--state=x", "--to=qcow2", "web", "d", "TARGET.new"), "--to and --state are mutually"),
        (("--marker", "--force", "web", "d", "/dev/null"), "not a regular file"),
        (("--state=x", "--all", "TARGET.new", "web"), "marker of one disk, not of 2"),
        (("--verify", "web", "d", "TARGET"), "--verify needs --in-place"),
    ],
)
def test_options_that_contradict_each_other_are_2(
    run: Run, tmp_path: Path, words: tuple[str, ...], why: str
) -> None:
    target = tmp_path / "disk.raw"
    target.write_bytes(_OLD)

    done = run("restore", *(word.replace("TARGET", str(target)) for word in words))

    assert done.code == 2
    assert why in done.err
    assert target.read_bytes() == _OLD


def test_the_marker_of_a_whole_restore_is_the_base_of_the_next_one(
    run: Run, tmp_path: Path
) -> None:
    target, state = tmp_path / "disk.raw", tmp_path / "state"
    whole = run("restore", "web@latest~1", "d", target, "--marker", "--json")
    other = run("restore", "web@latest~1", "d", tmp_path / "other.raw", "--state", state)
    every = run("restore", "--all", tmp_path / "all", "web", "--marker")

    words = "restore", "--in-place", "--from", "web@latest~1", "web", "d"
    assert whole.document["marker"] == f"{target}.cbtfs"
    assert f"marker {state}" in other.out
    assert run(*words, target).code == 0
    assert run(*words, tmp_path / "other.raw", "--state", state).code == 0
    assert target.read_bytes() == (tmp_path / "other.raw").read_bytes() == _NEW
    assert every.code == 0
    assert len(list((tmp_path / "all").rglob("*.raw.cbtfs"))) == 2
    assert not (tmp_path / "other.raw.cbtfs").exists()


def test_without_the_option_no_marker_appears(run: Run, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()

    done = run("restore", "web", "d", tmp_path / "new" / "disk.raw", "--json")

    assert done.document["marker"] is None
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["disk.raw"]


def test_a_server_that_cannot_be_reached_is_30(run: Run, tmp_path: Path) -> None:
    uri = f"nbd+unix:///?socket={tmp_path / 'none'}"

    assert run("restore", "--in-place", "web", "d", uri).code == 30
