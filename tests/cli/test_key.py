"""`cbtfs init --encrypt` and `cbtfs key`."""

import errno
import os
import stat
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pyrage
import pytest

from cbtfs.core.keyslot import Argon2, decode_slot, encode_slot
from cbtfs.core.sealed import seal, unseal
from cbtfs.store.encryption import ring, slots
from cbtfs.store.encryption.credentials import Credentials, use
from tests.cli.keys import forgetful_runner, no_key, secret
from tests.cli.run_cbtfs import Run, process, runner

__all__ = ["no_key"]  # a fixture

MEMORY = "--kdf-memory=8"
KEY = "--key-file"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on a repository; each command has to find its key."""
    return forgetful_runner(tmp_path / "repo", capsys)


@pytest.fixture
def key(tmp_path: Path, run: Run) -> Path:
    """Create an encrypted repository, and return its key file."""
    file = tmp_path / "key"
    assert run("init", "--encrypt", KEY, file, "--no-recovery").code == 0
    return file


def test_init_writes_key_and_sheet_for_their_owner_alone(tmp_path: Path, run: Run) -> None:
    key, sheet = tmp_path / "key", tmp_path / "sheet"

    done = run("init", "--encrypt", KEY, key, "--recovery-sheet", sheet, "--json")

    assert done.code == 0
    assert [slot["label"] for slot in done.document["key_slots"]] == ["key", "recovery"]
    assert done.document["encrypted"] is True
    for file in (key, sheet):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        digits = file.read_text().splitlines()[-1].split()[1]
        assert digits not in done.out + done.err
        assert run("key", "test", KEY, file).code == 0
    assert run("list", KEY, sheet).code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("--encrypt",),
        ("--encrypt", "--no-recovery", "--recovery-sheet", "sheet"),
        ("--recovery-sheet", "sheet"),
        ("--no-recovery",),
        ("--encrypt", "--recovery-sheet", "-"),
        ("--encrypt", "--recovery-sheet", "/dev/stdout"),
        ("--encrypt", "--no-recovery"),
        ("--encrypt", "--no-recovery", "--age-recipient", "age1wrong"),
    ],
)
def test_incomplete_or_contradicting_options_create_nothing(
    words: tuple[str, ...], tmp_path: Path, run: Run
) -> None:
    done = run("init", *words)

    assert done.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_is_never_overwritten(tmp_path: Path, run: Run) -> None:
    sheet = secret(tmp_path / "sheet", "precious")

    done = run("init", "--encrypt", KEY, tmp_path / "key", "--recovery-sheet", sheet)

    assert done.code == 2
    assert sheet.read_text() == "precious"
    assert not (tmp_path / "repo").exists()


def test_every_failure_to_get_a_key_is_one_line_and_14(tmp_path: Path, run: Run, key: Path) -> None:
    other = tmp_path / "other"
    run("key", "add", KEY, key, "--new-passphrase-file", secret(tmp_path / "p", "right"), MEMORY)
    wrong = secret(tmp_path / "wrong", "wrong")
    runner_words = [
        ("list",),
        ("list", "--passphrase-file", wrong),
        ("ingest", "image", wrong, "--vm=v", "--disk=d"),
        ("key", "test", "--passphrase-file", wrong),
        ("restore", "v@latest", "d", other),
    ]
    for words in runner_words:
        done = run(*words)
        assert done.code == 14, words
        assert done.err.count("\n") == 1
        assert "encrypted" in done.err
    assert run("list", "--passphrase-file", tmp_path / "p").code == 0


def test_check_without_a_key_verifies_checksums(tmp_path: Path, run: Run, key: Path) -> None:
    image = secret(tmp_path / "image", "content" * 4000)
    assert run("ingest", "image", image, "--vm=v", "--disk=d", KEY, key).code == 0
    (pack,) = (tmp_path / "repo").glob("packs/*/*")

    done = run("check", "--json")
    data = pack.read_bytes()
    pack.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    damaged = run("check", "--json")

    assert (done.code, done.document["problems"]) == (0, [])
    assert "no key was given" in done.err
    assert (damaged.code, len(damaged.document["problems"])) == (21, 1)


def test_slots_of_each_kind_open_the_repository(
    tmp_path: Path, run: Run, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrase = secret(tmp_path / "passphrase", "a long one\nsecond line\n")
    identity = pyrage.x25519.Identity.generate()
    age = secret(tmp_path / "identity", f"# created: now\n{identity}\n")
    program = tmp_path / "xor"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "sys.stdout.buffer.write(bytes(b ^ 85 for b in sys.stdin.buffer.read()))\n"
    )
    program.chmod(0o700)
    with_key = (KEY, key)
    added = [
        run("key", "add", *with_key, "--new-passphrase-file", passphrase, MEMORY),
        run("key", "add", *with_key, "--new-key-file", tmp_path / "second"),
        run("key", "add", *with_key, "--age-recipient", str(identity.to_public())),
        run("key", "add", *with_key, "--wrap-command", str(program), "--label", "vault"),
    ]
    assert [done.code for done in added] == [0, 0, 0, 0]

    assert run("key", "test", "--passphrase-file", passphrase).code == 0
    assert run("key", "test", KEY, tmp_path / "second").code == 0
    assert run("key", "test", KEY, age).code == 0
    monkeypatch.setenv("CBTFS_KEY_COMMAND", str(program))
    assert run("list").code == 0
    monkeypatch.setenv("CBTFS_KEY_COMMAND", "/bin/false")
    failed = run("list")
    assert (failed.code, "/bin/false failed" in failed.err) == (14, True)
    monkeypatch.delenv("CBTFS_KEY_COMMAND")
    monkeypatch.setenv("CBTFS_PASSPHRASE_FILE", str(passphrase))
    assert run("list").code == 0
    kinds = [slot["kind"] for slot in run("key", "list", "--json").document["slots"]]
    assert sorted(kinds) == ["age", "command", "file", "file", "passphrase"]


def test_a_slot_that_cannot_be_stored_leaves_no_key_file(
    tmp_path: Path, run: Run, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full; the same command works later."""
    words = ("key", "add", KEY, key, "--new-key-file", tmp_path / "new")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("cbtfs.store.backend.local.put_if_absent", full)
        failed = run(*words)

    assert (failed.code, failed.err.count("\n")) == (1, 1)
    assert not (tmp_path / "new").exists()
    assert run(*words).code == 0


def test_a_program_that_does_not_encrypt_is_refused(run: Run, key: Path) -> None:
    assert run("key", "add", KEY, key, "--wrap-command", "/bin/cat").code == 2


def test_a_removed_slot_opens_nothing_and_the_last_one_stays(
    tmp_path: Path, run: Run, key: Path
) -> None:
    second = tmp_path / "second"
    run("key", "add", KEY, key, "--new-key-file", second)

    assert run("key", "remove", "second", KEY, key).code == 0
    assert run("list", KEY, second).code == 14
    assert run("key", "remove", "key", KEY, key).code == 2
    assert run("key", "remove", "nonsense", KEY, key).code == 2
    assert run("list", KEY, key).code == 0


def test_a_slot_is_only_removed_by_somebody_with_a_key(run: Run, key: Path, tmp_path: Path) -> None:
    run("key", "add", KEY, key, "--new-key-file", tmp_path / "second")

    assert run("key", "remove", "second").code == 14


def test_passwd_replaces_the_passphrase(tmp_path: Path, run: Run) -> None:
    old, new = secret(tmp_path / "old", "old"), secret(tmp_path / "new", "new")
    words = ("--no-recovery", MEMORY, "--passphrase-file", old)
    assert run("init", "--encrypt", *words).code == 0

    done = run("key", "passwd", "--passphrase-file", old, "--new-passphrase-file", new, MEMORY)

    assert done.code == 0
    assert run("list", "--passphrase-file", old).code == 14
    assert run("list", "--passphrase-file", new).code == 0


def test_a_secret_that_others_may_read_is_refused(run: Run, key: Path) -> None:
    key.chmod(0o644)

    done = run("list", KEY, key)

    assert (done.code, "chmod 600" in done.err) == (2, True)


def test_a_planted_slot_does_not_take_memory(tmp_path: Path, run: Run) -> None:
    passphrase = secret(tmp_path / "p", "right")
    words = ("--no-recovery", MEMORY, "--passphrase-file", passphrase)
    assert run("init", "--encrypt", *words).code == 0
    (file,) = (f for f in (tmp_path / "repo" / "keys").iterdir() if len(f.name) == 32)
    document = unseal(file.read_bytes())
    document["argon2"]["memory_kib"] = 100 << 20
    file.write_bytes(seal(document))

    done = run("list", "--passphrase-file", passphrase)

    assert (done.code, "no slot that can be read" in done.err) == (14, True)


def test_a_changed_slot_gives_no_other_key(tmp_path: Path, run: Run, key: Path) -> None:
    (file,) = (f for f in (tmp_path / "repo" / "keys").iterdir() if len(f.name) == 32)
    slot = decode_slot(file.read_bytes())
    wrapped = bytearray(slot.wrapped)
    for at in range(len(wrapped)):
        wrapped[at] ^= 1
        file.write_bytes(encode_slot(replace(slot, wrapped=bytes(wrapped))))
        wrapped[at] ^= 1
        if at % 10 == 0:
            assert run("list", KEY, key).code == 14


def test_threads_derive_a_passphrase_once(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrase, derived = secret(tmp_path / "p", "right"), list[int]()
    words = ("--no-recovery", MEMORY, "--passphrase-file", passphrase)
    assert run("init", "--encrypt", *words).code == 0
    stretch = slots._stretched

    def count(passphrase: bytes, argon2: Argon2) -> bytes:
        derived.append(1)
        return stretch(passphrase, argon2)

    monkeypatch.setattr(slots, "_stretched", count)
    ring.drop_all()
    use(Credentials(passphrase_files=(passphrase,)))

    threads = [Thread(target=ring.keys_of, args=(tmp_path / "repo",)) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(derived) == 1


def test_no_secret_is_an_argument_of_a_process(tmp_path: Path) -> None:
    """The help names files and variables only."""
    done = process("key", "add", "--help")

    assert done.code == 0
    assert "--passphrase " not in done.out
    assert "--new-passphrase " not in done.out


def test_a_related_repository_has_the_same_digests(
    tmp_path: Path, run: Run, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = runner(tmp_path / "second", capsys)
    related = ("init", "--related", tmp_path / "repo")

    assert second(*related).code == 2
    ring.drop_all()
    assert second(*related, "--encrypt", "--no-recovery", KEY, key).code == 0
    first, other = (ring.keys_of(tmp_path / name) for name in ("repo", "second"))
    assert first is not None
    assert other is not None
    assert first.digest == other.digest
    assert first.of(1).meta != other.of(1).meta
