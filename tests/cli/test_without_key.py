"""Every command on an encrypted repository without its key: one line, exit code 14, no output."""

from pathlib import Path

import pytest

from cbtfs.core.keyfile import encode_key_file
from cbtfs.core.keyslot import encode_slot
from cbtfs.core.pin import Pin, PinId
from cbtfs.store.encryption.slots import passphrase_slot
from cbtfs.store.identity import new_id
from cbtfs.store.pins import put_pin
from cbtfs.store.repository import reading
from tests.cli.command_tree import command_tree
from tests.cli.keys import no_key, secret
from tests.cli.run_cbtfs import Run, runner
from tests.encrypted import create_encrypted, encrypted_settings
from tests.make_points import BLOCK, add_point

__all__ = ["no_key"]  # a fixture

LOGIN = ("--server", "127.0.0.1:1", "--user", "u", "--password-file", "{password}")
OVERLAY = ("name", "--dir", "{new}")
COMMANDS: dict[str, tuple[str, ...]] = {
    "bisect": ("v", "--", "true"),
    "blame": ("v@latest", "disk"),
    "copy": ("--to", "{other}"),
    "diff": ("v@latest", "v@latest", "disk"),
    "export": ("v@latest", "--socket", "{empty}"),
    "extents": ("v@latest", "disk"),
    "files cat": ("v@latest:/etc/fstab",),
    "files diff": ("v@latest", "v@latest"),
    "files extract": ("v@latest:/etc", "{new}"),
    "files find": ("v@latest:/",),
    "files index": ("--due",),
    "files log": ("v:/etc/fstab",),
    "files ls": ("v@latest:/",),
    "files stat": ("v@latest:/",),
    "forget": ("v", "--keep-last", "1"),
    "ingest image": ("--vm", "v", "--disk", "d", "{image}"),
    "ingest vsphere": ("v", *LOGIN),
    "key add": ("--new-key-file", "{new}"),
    "key export": ("--role", "read", "{new}"),
    "key passwd": ("--new-passphrase-file", "{password}"),
    "key remove": ("test",),
    "key rotate": (),
    "key test": (),
    "list": (),
    "mount": ("{empty}",),
    "overlay create": ("v@latest", *OVERLAY),
    "overlay list": (),
    "protect": ("v@latest",),
    "prove": ("v@latest",),
    "prune": (),
    "repair": (),
    "restore": ("v@latest", "disk", "{new}"),
    "show": ("v@latest",),
    "stats": (),
    "tag": ("v@latest", "text"),
    "unforget": ("v@latest",),
    "upgrade": ("--shared-writers",),
}
"""Arguments of the commands that need a key."""
OTHERS = {
    "check": "verifies checksums without a key",
    "init": "makes a repository",
    "key list": "needs no key",
    "unlock": "needs no key",
    **dict.fromkeys(("cbt enable", "cbt reset", "cbt status", "watch"), "have no repository"),
    **dict.fromkeys(("demo", "doctor"), "have no repository, or only its path"),
    **dict.fromkeys(("umount", "status"), "work on a mount"),
    **dict.fromkeys(("overlay boot", "overlay commit", "overlay start"), "need an overlay"),
    **dict.fromkeys(("overlay discard", "overlay stop"), "need an overlay"),
    "run": "runs other commands",
}
"""The other commands, and why."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("without-key")
    for name in ("other", "repo"):
        master = create_encrypted(folder / name, encrypted_settings(BLOCK))
    path = folder / "repo"
    point = add_point(path, {"disk": b"text" * BLOCK}, vm="v").point
    with reading(path) as repository:
        pin = Pin(PinId(new_id()), point, "name", "host", "/dir", "2026-01-01T00:00:00Z")
        put_pin(path, repository.points, pin)
    slot = passphrase_slot(master, "phrase", b"right", memory_mib=8)
    (path / "keys" / slot.id).write_bytes(encode_slot(slot))
    (folder / "empty").mkdir()
    secret(folder / "wrong", encode_key_file(bytes(32), "of another repository"))
    (folder / "image").write_bytes(b"x" * BLOCK)
    secret(folder / "password", "p\n")
    return folder


def test_every_command_is_listed() -> None:
    commands = {
        words for words, command in command_tree().items() if not hasattr(command, "commands")
    }

    assert COMMANDS.keys() | OTHERS.keys() == commands
    assert not COMMANDS.keys() & OTHERS.keys()


SOME = ("ingest image", "key test", "list", "mount", "overlay list", "restore")
CASES = [(name, "wrong") for name in COMMANDS]
CASES += [(name, lost) for name in SOME for lost in ("none", "slots")]


@pytest.mark.parametrize(("command", "lost"), CASES)
def test_it_ends_with_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, lost: str
) -> None:
    """No key was given, another repository's, or the slots are gone."""
    path, places = folder / "repo", {"new": folder / "new"}
    places |= {name: folder / name for name in ("other", "empty", "image", "password")}
    run: Run = runner(path, capsys)
    words = [word.format(**places) for word in COMMANDS[command]]
    keys = ("--key-file", folder / "wrong") if lost == "wrong" else ()
    if lost == "slots":
        (path / "keys").rename(folder / "aside")
    try:
        done = run(*command.split(), *keys, *words)
    finally:
        if lost == "slots":
            (folder / "aside").rename(path / "keys")

    assert done.code == 14, done
    assert done.err.count("\n") == 1, done.err
    assert "is encrypted" in done.err
    assert done.out == ""
    assert not (folder / "new").exists()
