"""`cbtfs key export`, and commands with the key of a role."""

import json
import os
import random
import re
import stat
from pathlib import Path

import pytest

from cbtfs.core.rolefile import decode_role_file
from cbtfs.store.encryption import ring
from tests.cli.keys import forgetful_runner, no_key
from tests.cli.run_cbtfs import Run, runner

__all__ = ["no_key"]  # a fixture

BLOCK = 4096


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on an encrypted repository; each command has to find its key."""
    run = forgetful_runner(tmp_path / "repo", capsys)
    key = ("--key-file", tmp_path / "key")
    assert run("init", "--encrypt", "--block-size=4096", "--no-recovery", *key).code == 0
    for role in ("capture", "read"):
        assert run("key", "export", tmp_path / role, f"--role={role}", *key).code == 0
    (tmp_path / "disk").write_bytes(random.Random(1).randbytes(90 * BLOCK))
    return run


@pytest.fixture
def capture(tmp_path: Path) -> str:
    return f"--key-file={tmp_path / 'capture'}"


@pytest.fixture
def read(tmp_path: Path) -> str:
    return f"--key-file={tmp_path / 'read'}"


@pytest.fixture
def admin(tmp_path: Path) -> str:
    return f"--key-file={tmp_path / 'key'}"


def image(tmp_path: Path, *more: str) -> tuple[str, ...]:
    return "ingest", "image", str(tmp_path / "disk"), "--vm=v", "--disk=d", *more


def content_of(path: Path) -> dict[Path, bytes]:
    """Return every file that is not local state."""
    skipped = ("catalog", "locks", "reserve")
    files = [file for file in path.rglob("*") if file.is_file()]
    return {f: f.read_bytes() for f in files if f.relative_to(path).parts[0] not in skipped}


def test_a_role_key_is_a_private_file_that_tells_its_role(
    run: Run, tmp_path: Path, capture: str, read: str, admin: str
) -> None:
    for role in ("capture", "read"):
        file = tmp_path / role
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        tested = run("key", "test", f"--key-file={file}", "--json").document
        assert (tested["slot"], tested["role_key"]["role"]) == (None, role)
    assert run("key", "list", capture, "--json").document["role_key"]["role"] == "capture"
    assert run("key", "list", "--json").document["role_key"] is None
    assert re.search(r"capture key [0-9a-f]{8}", run("key", "test", capture).out)
    assert run("key", "test", admin, "--json").document["role_key"] is None
    assert b'private":null' in (tmp_path / "capture").read_bytes()


def test_a_capture_key_does_all_that_needs_no_content(
    run: Run, tmp_path: Path, capture: str, read: str
) -> None:
    assert run(*image(tmp_path), capture).code == 0
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps([{"start": 5000, "length": 10}]))
    with (tmp_path / "disk").open("r+b") as file:
        file.seek(5000)
        file.write(b"0123456789")
    second = run(*image(tmp_path, "--changed", str(changed), "--json"), capture).document
    assert (second["kind"], second["disks"][0]["read_bytes"]) == ("incremental", BLOCK)
    assert run(*image(tmp_path, "--full", f"--metrics={tmp_path / 'm.prom'}"), capture).code == 0
    words: list[tuple[str, ...]] = [
        ("list",),
        ("show", "v@latest"),
        ("extents", "v@latest", "d"),
        ("diff", "v@latest~1", "v@latest", "d"),
        ("blame", "v@latest", "d"),
        ("stats",),
        ("check",),
        ("protect", "v@latest"),
        ("tag", "v@latest", "kept"),
        ("repair",),
        ("forget", "v", "--keep-last=2"),
        ("files", "index", "--help"),
    ]
    for command in words:
        done = run(capture, *command)
        assert (done.code, done.err.count("Traceback")) == (0, 0), (command, done.err)
    assert run("restore", "v@latest", "d", tmp_path / "out", read).code == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "disk").read_bytes()


def test_commands_that_read_content_refuse_a_capture_key_before_any_change(
    run: Run, tmp_path: Path, capture: str, admin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*image(tmp_path), capture).code == 0
    assert run(*image(tmp_path), capture).code == 0
    other, path = tmp_path / "other", tmp_path / "repo"
    key = f"--key-file={tmp_path / 'key2'}"
    assert runner(other, capsys)("init", "--encrypt", "--no-recovery", key).code == 0
    before = content_of(path)
    words: list[tuple[str, ...]] = [
        ("restore", "v@latest", "d", str(tmp_path / "out")),
        ("restore", "v@latest", "d", "-"),
        ("mount", str(tmp_path)),
        ("export", "v@latest", "--socket", str(tmp_path / "socket")),
        ("files", "ls", "v@latest:/"),
        ("files", "index", "v@latest"),
        ("files", "find", "--in", "v", "*"),
        ("files", "diff", "v@latest~1", "v@latest"),
        ("overlay", "create", "v@latest", "lab", f"--dir={tmp_path}"),
        ("bisect", "v", "--", "true"),
        ("prove", "v@latest"),
        ("prune",),
        ("prune", "--rekey"),
        ("forget", "v", "--keep-last=1", "--prune"),
        ("check", "--read-data"),
        ("check", "--read-data-subset=unverified"),
        ("copy", "--to", str(other), key),
    ]
    for command in words:
        done = run(capture, *command)
        assert (done.code, done.err.count("\n")) == (14, 1), (command, done.err)
        assert "capture key, which cannot read the content of disks" in done.err
    for subcommand in (("rotate",), ("add",), ("remove", "key")):
        done = run("key", *subcommand, capture)
        assert (done.code, done.err.count("\n")) == (14, 1), (subcommand, done.err)
    exported = run("key", "export", tmp_path / "third", "--role=read", capture)
    assert (exported.code, (tmp_path / "third").exists()) == (14, False)

    assert content_of(path) == before
    assert not (tmp_path / "out").exists()


def test_an_incremental_of_a_reader_reads_what_a_capture_key_wrote(
    run: Run, tmp_path: Path, capture: str, read: str
) -> None:
    """The base may be junk: its blocks are read from the source, and stored again."""
    changed = tmp_path / "changed.json"
    changed.write_text("[]")
    assert run(*image(tmp_path), capture).code == 0
    first = run(*image(tmp_path, "--changed", str(changed), "--json"), read).document["disks"][0]
    again = run(*image(tmp_path, "--changed", str(changed), "--json"), read).document["disks"][0]

    assert first["read_bytes"] == 90 * BLOCK
    assert first["stored_bytes"] > 90 * BLOCK
    assert again["read_bytes"] == 0
    checked = run("check", "--read-data-subset=unverified", "--json", read).document
    assert (checked["unverified_packs"], checked["problems"]) == (0, [])
    assert run("prune", "--max-unused=0%", read).code == 0
    assert run("check", "--read-data", read).code == 0


def test_packs_stay_unverified_until_a_reader_has_read_them(
    run: Run, tmp_path: Path, capture: str, read: str
) -> None:
    assert run(*image(tmp_path), capture).code == 0
    before = run("check", "--json", capture).document
    read_one = run("check", "--read-data-subset=unverified", "--json", read).document
    after = run("check", "--read-data-subset=unverified", "--json", read).document

    assert before["unverified_packs"] == 1
    assert (read_one["unverified_packs"], read_one["chunks_read"]) == (0, 90)
    assert (after["unverified_packs"], after["chunks_read"]) == (0, 0)
    assert run("check", capture).out.count("capture keys") == 0


def test_role_keys_end_with_a_rotation(
    run: Run, tmp_path: Path, capture: str, read: str, admin: str
) -> None:
    assert run(*image(tmp_path), capture).code == 0
    assert run("key", "rotate", admin).code == 0

    for command in (image(tmp_path), ("list",), ("check",)):
        for key in (capture, read):
            done = run(*command, key)
            assert (done.code, done.err.count("\n")) == (14, 1)
            assert "epoch 1, and the key was rotated to epoch 2" in done.err
    new = f"--key-file={tmp_path / 'new'}"
    assert run("key", "export", tmp_path / "new", "--role=capture", admin).code == 0
    assert run(*image(tmp_path), new).code == 0
    assert run("key", "test", new, "--json").document["role_key"]["epoch"] == 2
    assert run("prune", "--rekey", "--json", admin).document["old_packs"] == 0
    assert run("check", "--read-data", admin).code == 0


def test_bad_exports_change_nothing(run: Run, tmp_path: Path, admin: str) -> None:
    before = content_of(tmp_path / "repo")
    taken = tmp_path / "taken"
    taken.write_text("precious")

    for words in (
        (taken, "--role=capture"),
        (tmp_path / "x", "--role=admin"),
        (tmp_path / "x", "--role=nonsense"),
        (tmp_path / "x",),
    ):
        assert run("key", "export", *words, admin).code == 2
    assert run("key", "export", tmp_path / "x", "--role=read").code == 14
    assert taken.read_text() == "precious"
    assert not (tmp_path / "x").exists()
    assert content_of(tmp_path / "repo") == before


def test_shared_writers_and_capture_keys_exclude_each_other(
    run: Run, tmp_path: Path, admin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other, key = tmp_path / "other", f"--key-file={tmp_path / 'key2'}"
    shared = runner(other, capsys)
    assert shared("init", "--encrypt", "--shared-writers", "--no-recovery", key).code == 0

    refused = shared("key", "export", tmp_path / "third", "--role=capture", key)
    assert (refused.code, "shared writers" in refused.err) == (2, True)
    upgrade = run("upgrade", "--shared-writers", admin)
    assert (upgrade.code, "capture keys" in upgrade.err) == (2, True)
    assert run("list", admin).code == 0


def test_a_damaged_role_key_is_one_line(run: Run, tmp_path: Path, capture: str) -> None:
    file = tmp_path / "capture"
    data, rng = file.read_bytes(), random.Random(2)
    start = data.index(b"{")
    for _ in range(30):
        at = rng.randrange(start, len(data) - 1)
        file.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(7)]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r".+"):
            decode_role_file(file.read_bytes())
        done = run("list", capture)
        assert done.code in (2, 14)
        assert done.err.count("\n") == 1
    file.write_bytes(data)
    assert run("list", capture).code == 0


def test_a_role_key_comes_through_a_pipe(run: Run, tmp_path: Path) -> None:
    ends = os.pipe()
    os.write(ends[1], (tmp_path / "capture").read_bytes())
    os.close(ends[1])

    done = run("list", f"--key-file=/proc/self/fd/{ends[0]}")
    os.close(ends[0])

    assert done.code == 0


def test_a_role_key_of_another_repository_does_not_fit(
    run: Run, tmp_path: Path, capture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other, key = tmp_path / "other", f"--key-file={tmp_path / 'key2'}"
    assert runner(other, capsys)("init", "--encrypt", "--no-recovery", key).code == 0
    ring.drop_all()
    done = runner(other, capsys)("list", capture)

    assert (done.code, done.err.count("\n")) == (14, 1)
    assert "no key given fits" in done.err


def test_a_forged_point_is_the_base_of_an_incremental_until_a_full(
    run: Run, tmp_path: Path, capture: str, admin: str
) -> None:
    """docs/durability.md, "A stolen capture key": manifests are not signed."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    true = disk.read_bytes()
    assert run(*image(tmp_path, admin)).code == 0
    disk.write_bytes(true[: 5 * BLOCK] + bytes(BLOCK) + true[6 * BLOCK :])
    assert run(*image(tmp_path, capture)).code == 0
    disk.write_bytes(true)
    changes = tmp_path / "changes"
    changes.write_text(f'[{{"start": 0, "length": {BLOCK}}}]')

    assert run(*image(tmp_path, admin, f"--changed={changes}", "--audit=0")).code == 0
    assert run("restore", "v@latest", "d", out, admin).code == 0
    assert out.read_bytes() != true
    out.unlink()
    assert run(*image(tmp_path, admin, f"--changed={changes}", "--full")).code == 0
    assert run("restore", "v@latest", "d", out, admin).code == 0
    assert out.read_bytes() == true
