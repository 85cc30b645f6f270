"""`cbtfs bisect`: the first point at which a command fails, and nothing stays behind."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.store.repository import writing
from tests.cli.fixtures import folder, run
from tests.cli.run_cbtfs import CommandResult, Run
from tests.docs.documents import MemberTables
from tests.make_points import BLOCK, SIGNALS, add_point, commit_point, new_repository
from tests.prove.images import make_ext4, overwrite
from tests.qemu.processes import using

__all__ = ["folder", "run"]  # fixtures
pytestmark = pytest.mark.mounts

POINTS = 20


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def add_points(repository: Path, contents: Sequence[bytes]) -> list[Manifest]:
    """Commit a point for each of *contents*, the first bytes of its disk."""
    with writing(repository) as opened:
        return [commit_point(opened, {"d": content.ljust(BLOCK)}) for content in contents]


def from_number(first_bad: int, count: int = POINTS) -> list[bytes]:
    """Return contents that are intact before *first_bad*, each another one."""
    return [b"%s %d" % (b"bad" if n >= first_bad else b"good", n) for n in range(count)]


@pytest.mark.parametrize("first_bad", [12])
def test_the_first_bad_point_is_found(
    run: Run, repository: Path, folder: Path, first_bad: int
) -> None:
    points = add_points(repository, from_number(first_bad))

    done = run("bisect", "vm", "--json", "--", "grep", "-q", "good", "{}")

    assert done.code == 0, done.err
    assert done.document["first_bad"]["point"] == points[first_bad].point
    assert done.document["last_good"]["point"] == points[first_bad - 1].point
    assert done.document["points"] == POINTS
    tested = [points.index(_by_id(points, item["point"])) for item in done.document["runs"]]
    assert tested[:2] == [0, POINTS - 1]
    assert len(tested) == len(set(tested)) <= 7
    assert os.listdir(folder) == []
    tables = MemberTables()
    tables.compare("bisect", done.document)
    assert tables.problems == []
    rows = [row for row in tables.never_printed() if row[0] in ("bisect", "named point")]
    assert rows == []


def _by_id(points: Sequence[Manifest], point: str) -> Manifest:
    return next(manifest for manifest in points if manifest.point == point)


def test_lines_name_both_points_and_each_run(run: Run, repository: Path) -> None:
    points = add_points(repository, from_number(1, 2))

    done = run("bisect", "vm", "--", "grep", "-q", "good", "{}")

    first, second = "vm@2026-01-01T00-00-01Z", "vm@2026-01-01T00-00-02Z"
    assert done.out.splitlines() == [
        f"last good point:  {first} (point {points[0].point[:12]})",
        f"first bad point:  {second} (point {points[1].point[:12]})",
    ]
    assert f"{first}: good (exit code 0, " in done.err
    assert f"{second}: bad (exit code 1, " in done.err


def test_the_directory_of_a_point_has_all_disks_and_slices(run: Run, repository: Path) -> None:
    for data in (b"1", b"2"):
        add_point(repository, {"d": b"1" * BLOCK, "e": data * BLOCK})
    script = 'test -d "$1"/slices && cmp "$1"/d.raw "$1"/e.raw'

    done = run("bisect", "vm", "--json", "--", "sh", "-c", script, "sh", "{point}")

    assert done.code == 0, done.err
    assert (done.document["disk"], len(done.document["runs"])) == (None, 2)


def _guest(path: Path, text: str) -> Path:
    """Make an ext4 with a configuration in a directory."""
    make_ext4(path)
    content = path.with_suffix(".txt")
    content.write_text(text)
    script = path.with_suffix(".debugfs")
    script.write_text(f"mkdir etc\ncd etc\nwrite {content} app.conf\n")
    subprocess.run(["debugfs", "-w", "-f", script, path], check=True, capture_output=True)
    return path


def test_the_command_reads_the_files_of_the_guest(run: Run, folder: Path, tmp_path: Path) -> None:
    texts = ["mode=good", "", "mode=good but other", "mode=bad"]
    disks = [_guest(tmp_path / f"disk{number}", text) for number, text in enumerate(texts)]
    overwrite(disks[1], 1024, bytes(1024))
    points = [
        run("ingest", "image", "--vm=vm", "--disk=root", disk, "--json").document["point"]
        for disk in disks
    ]

    done = run("bisect", "vm", "--json", "--", "grep", "-q", "good", "{files}/etc/app.conf")

    assert done.code == 0, done.err
    assert done.document["first_bad"]["point"] == points[3]
    results = {item["point"]: item["result"] for item in done.document["runs"]}
    assert results == dict(zip(points, ["good", "skip", "good", "bad"], strict=True))
    assert "skip (its files cannot be read: no volume of this point has files" in done.err
    assert os.listdir(folder) == []
    end = run("bisect", "vm", f"--good={points[1]}", "--", "test", "-d", "{files}")
    _refused(end, 1, "the files of the good end vm@")


def test_skipped_points_leave_candidates(run: Run, repository: Path, folder: Path) -> None:
    points = add_points(repository, [b"good", b"good", b"skip", b"skip", b"bad", b"bad"])
    script = 'read word rest < "$1"; case $word in good) ;; skip) exit 125 ;; *) exit 9 ;; esac'

    done = run("bisect", "vm", "--json", "--", "sh", "-c", script, "sh", "{}")

    assert done.code == 3, done.err
    assert done.document["first_bad"] is None
    assert [item["point"] for item in done.document["candidates"]] == [
        manifest.point for manifest in points[2:5]
    ]
    assert len(done.document["runs"]) == len(points)


def _refused(done: CommandResult, code: int, text: str) -> None:
    assert (done.code, done.out) == (code, "")
    assert text in done.err.splitlines()[-1]


def test_ends_that_do_not_fit_are_errors_with_words(run: Run, repository: Path) -> None:
    points = add_points(repository, [b"good", b"bad", b"good"])
    grep = ("--", "grep", "-q", "good", "{}")

    _refused(run("bisect", "vm", *grep), 1, "the bad end vm@2026-01-01T00-00-03Z passes")
    bad = f"--good={points[1].point}"
    _refused(run("bisect", "vm", bad, *grep), 1, "the good end vm@2026-01-01T00-00-02Z fails")
    _refused(run("bisect", "vm", "--", "no-such", "{}"), 1, "was not found")
    order = f"--good={points[2].point}", f"--bad={points[0].point}"
    _refused(run("bisect", "vm", *order, *grep), 2, "is not before the bad end")
    _refused(run("bisect", "vm", "--", "/etc/passwd", "{}"), 1, "cannot be executed")
    _refused(run("bisect", "vm", "--", "sh", "-c", "kill -9 $$; {}"), 1, "signal 9")
    _refused(run("bisect", "vm", "--", "sh", "-c", "exit 128; {}"), 1, "exited with 128")
    _refused(run("bisect", "vm", "--", "true"), 2, "the command has no {}")
    _refused(run("bisect", "vm"), 2, "no command given")
    _refused(run("bisect", "nobody", *grep), 13, "nobody")
    _refused(run("bisect", "vm", "--disk=x", *grep), 13, "no disk 'x'")
    _refused(run("bisect", "vm", f"--skip={points[0].point}", *grep), 2, "cannot be skipped")


def test_named_ends_limit_the_search(run: Run, repository: Path) -> None:
    points = add_points(repository, [b"bad", b"good", b"good", b"bad", b"good"])
    ends = f"--good={points[1].point}", f"--bad={points[3].point}"

    done = run("bisect", "vm", *ends, "--json", "--", "grep", "-q", "good", "{}")

    assert done.document["first_bad"]["point"] == points[3].point
    assert len(done.document["runs"]) == 3


def test_a_damaged_chunk_ends_the_search_and_is_not_bad(run: Run, repository: Path) -> None:
    points = [add_point(repository, {"d": bytes([n + 1]) * BLOCK}) for n in range(3)]
    _damage(repository, bytes([2]) * BLOCK)
    command = ("--", "sh", "-c", "! grep -q '\3' \"$1\"", "sh", "{}")

    done = run("bisect", "vm", *command)

    assert (done.code, done.out) == (21, "")
    assert f"use --skip {points[1].point}" in done.err.splitlines()[-1]
    text = run("bisect", "vm", f"--skip={points[1].point}", *command)
    assert (text.code, len(text.out.splitlines())) == (3, 4)


def _damage(repository: Path, chunk: bytes) -> None:
    """Change a byte of the only pack that has the chunk of the second point."""
    packs = sorted(repository.glob("packs/*/*"), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(packs[1].read_bytes())
    data[100] ^= 1
    packs[1].write_bytes(data)


def test_a_log_is_replayed_and_continued(run: Run, repository: Path, tmp_path: Path) -> None:
    points = add_points(repository, from_number(7))
    log, count = tmp_path / "search.log", tmp_path / "count"
    script = f'echo >> {count}; grep -q good "$1"'
    search = ("bisect", "vm", f"--log={log}", "--json", "--", "sh", "-c", script, "sh", "{}")
    first = run(*search)
    runs = len(count.read_text())
    lines = log.read_text().splitlines(keepends=True)

    log.write_text("".join(lines[:6]) + "good 12")  # A killed search can leave a partial line.
    again = run(*search)

    assert first.document["first_bad"]["point"] == points[7].point
    assert again.document["first_bad"] == first.document["first_bad"]
    assert [item["exit"] for item in again.document["runs"]][:3] == [None] * 3
    assert len(count.read_text()) == runs + runs - 3
    assert log.read_text().splitlines(keepends=True) == lines


def test_a_log_of_another_question_or_search_is_refused(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    add_points(repository, from_number(1, 2))
    log = tmp_path / "search.log"
    assert run("bisect", "vm", f"--log={log}", "--", "grep", "-q", "good", "{}").code == 0
    text = log.read_text()

    other = ("bisect", "vm", f"--log={log}", "--", "grep", "good", "{}")
    same = ("bisect", "vm", f"--log={log}", "--", "grep", "-q", "good", "{}")
    _refused(run(*other), 2, "results of another command")
    log.write_text(text.replace("disk ", "disk 0"))
    _refused(run(*same), 2, "results of another disk")
    log.write_text(text + "maybe so\n")
    _refused(run(*same), 2, "line 6: 'maybe so' is not a result")
    log.write_text("my diary")
    _refused(run(*same), 2, "is not the log of a search")
    assert log.read_text() == "my diary"
    inside = ("bisect", "vm", f"--log={repository / 'log'}", "--", "true", "{}")
    _refused(run(*inside), 2, "inside the repository")


def test_two_searches_do_not_share_a_log(run: Run, repository: Path, tmp_path: Path) -> None:
    add_points(repository, from_number(1, 2))
    log = tmp_path / "search.log"
    with log.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        done = run("bisect", "vm", f"--log={log}", "--", "true", "{}")

    _refused(done, 11, "is in use by another search")


def test_the_command_gets_the_environment_without_passwords(
    run: Run, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_points(repository, from_number(1, 2))
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "secret")
    monkeypatch.setenv("MINE", "good")
    script = 'test -z "$CBTFS_VSPHERE_PASSWORD" && grep -q "$MINE" "$1"'

    assert run("bisect", "vm", "--", "sh", "-c", script, "sh", "{}").code == 0


def test_a_process_that_the_command_leaves_behind_is_killed(
    run: Run, repository: Path, folder: Path, tmp_path: Path
) -> None:
    add_points(repository, from_number(1, 2))
    pids = tmp_path / "pids"
    script = f'setsid tail -f "$1" >&- 2>&- & echo $! >> {pids}; grep -q good "$1"'

    done = run("bisect", "vm", "--", "sh", "-c", script, "sh", "{}")

    assert done.code == 0, done.err
    assert os.listdir(folder) == []
    assert [pid for pid in pids.read_text().split() if Path("/proc", pid).exists()] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_no_mount_and_no_process(
    repository: Path, folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    add_points(repository, from_number(1, 2))
    started = tmp_path / "started"
    os.mkfifo(started)
    script = f'setsid tail -f "$1" & echo $! > {started}; wait'
    search = ["bisect", "vm", "--", "sh", "-c", script, "sh", "{}"]
    command = [*SIGNALS, sys.executable, "-m", "cbtfs", f"--repo={repository}", *search]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        orphan = int(started.read_text())
        assert str(folder) in Path("/proc/mounts").read_text()
        child.send_signal(number)
        child.wait()

    assert child.returncode == {signal.SIGKILL: -9}.get(number, 128 + number)
    if number != signal.SIGKILL:
        assert os.listdir(folder) == []
        assert not Path(f"/proc/{orphan}").exists()
    while (
        str(folder) in Path("/proc/mounts").read_text()
        or Path(f"/proc/{orphan}").exists()
        or using(folder)
    ):
        pass
