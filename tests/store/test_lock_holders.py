"""Locks name their holder and the state of that process."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cbtfs.cli.main import main
from cbtfs.errors import RepositoryLocked, UsageError
from cbtfs.store import file_system
from cbtfs.store.holder import Holder, describe_self, parse_holder
from cbtfs.store.repository import reading, writing
from tests.make_points import new_repository

_HOLD = """
import sys
from pathlib import Path
from cbtfs.store.repository import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repo")


def hold(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_stopped_holder_is_named_and_nobody_hangs(path: Path) -> None:
    with hold(path) as holder:
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
        with (
            pytest.raises(RepositoryLocked, match=f"kill -CONT {holder.pid}"),
            writing(path, lock_wait=0.1),
        ):
            pass
        holder.send_signal(signal.SIGCONT)
        holder.communicate()

    with writing(path):
        """The lock is free again."""


def test_a_killed_holder_is_named_once_by_unlock(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hold(path) as holder:
        assert main([f"--repo={path}", "unlock"]) == 11
        assert str(holder.pid) in capsys.readouterr().err
        holder.kill()

    assert main([f"--repo={path}", "unlock", "--json"]) == 0
    assert f"process {holder.pid} " in json.loads(capsys.readouterr().out)["left_by"]
    assert main([f"--repo={path}", "unlock", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_by"] is None


def test_a_reused_pid_is_not_the_holder() -> None:
    me = parse_holder(describe_self())
    assert me is not None
    later = Holder(me.pid, me.host, me.command, me.since, me.started + 1)

    assert me.fate == "runs"
    assert later.fate == "has ended"
    assert Holder(me.pid, "elsewhere", "", "", me.started).fate == "is on another host"


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[1]", b"\xff", b'{"pid": "x", "host": 1}', b"[" * 9999]
)
def test_a_lock_with_nonsense_in_it_names_nobody(text: bytes) -> None:
    assert parse_holder(text) is None


@pytest.mark.parametrize(
    ("kind", "source", "said"),
    [("nfs4", "server:/export", "network"), ("fuse", "cbtfs", "inside a mount")],
)
def test_a_place_where_no_repository_can_be_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, source: str, said: str
) -> None:
    device = path.stat().st_dev
    table = path.parent / "mountinfo"
    at = f"{os.major(device)}:{os.minor(device)}"
    table.write_text(
        f"1 2 0:1 / /x rw - proc proc rw\n36 35 {at} / / rw shared:1 - {kind} {source} rw\n"
    )
    monkeypatch.setattr(file_system, "MOUNTS", table)

    with pytest.raises(UsageError, match=said), reading(path):
        pass
