"""Overlays and exports of an encrypted repository: the children get the keys by a pipe alone."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cbtfs.core.keyfile import encode_key_file
from cbtfs.store.encryption.credentials import KEY_FILE_VARIABLE, PASSPHRASE_VARIABLE
from tests.encrypted import SECRET, create_encrypted, encrypted_settings, write_key
from tests.export.test_export import Site, content, exported, nbd_map
from tests.make_points import MEMORY
from tests.overlay.overlay_site import OverlaySite, committed, write_at
from tests.overlay.test_start import processes_below

pytestmark = pytest.mark.mounts

PASSPHRASE: Final = "correct horse battery staple"
FORMS: Final = (
    SECRET,
    SECRET.hex().encode(),
    encode_key_file(SECRET, "").split()[-1].encode(),
    PASSPHRASE.encode(),
    KEY_FILE_VARIABLE.encode(),
    PASSPHRASE_VARIABLE.encode(),
)
"""Forms of the secrets, and the variables that name their files."""


def create(path: Path, block_size: int) -> None:
    create_encrypted(path, encrypted_settings(block_size))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="encrypted-", dir=MEMORY) as path:
        yield Path(path)


@pytest.fixture
def key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a key file, which commands that are started find in their environment."""
    path = write_key(folder / "key")
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(path))
    return path


def run(site: OverlaySite, *words: str, code: int = 0) -> dict[str, Any]:
    """Run a command in a process of its own, which has no keys but those it is given."""
    return site.run(site.act(*words), code=code, folder=site.directory.parent)


def descendants(process: int) -> list[int]:
    children = [int(child) for child in processes_below(process)]
    return children + [pid for child in children for pid in descendants(child)]


def assert_children_have_no_secret(command: int, least: int) -> None:
    """Look at arguments, environment and descriptors of all processes below *command*."""
    processes = descendants(command)
    assert len(processes) >= least
    for process in processes:
        of = Path(f"/proc/{process}")
        for name in ("cmdline", "environ"):
            text = (of / name).read_bytes()
            assert not [form for form in FORMS if form in text], (name, text)
        open_files = [os.readlink(path) for path in (of / "fd").iterdir()]
        assert not [path for path in open_files if "cbtfs keys" in path or path.endswith("/key")]


def test_an_overlay_of_an_encrypted_repository_is_written_and_committed(
    folder: Path, key: Path
) -> None:
    site = OverlaySite(folder, create)
    run(site, "create", site.point.point, "lab")
    raw, expected = site.overlay / "root.raw", bytearray(site.images["root"])
    expected[5000:5005] = b"guest"

    with site.started() as child:
        assert raw.read_bytes() == site.images["root"]
        write_at(raw, 5000, b"guest")
        # The mount and its workers, and the daemon.
        assert_children_have_no_secret(child.pid, 3)
    document = run(site, "commit", "lab")

    assert committed(site, document["point"])["root"] == expected
    pins = list((site.repository / "overlays").glob("*"))
    assert len(pins) == 1
    assert b"lab" not in pins[0].read_bytes()
    assert [item["overlay"] for item in run(site, "list")["overlays"]] == ["lab"]
    site.end()


def test_an_overlay_starts_in_the_background_with_a_key_that_only_the_command_gets(
    folder: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the passphrase of a second slot; without any key, nothing starts."""
    site = OverlaySite(folder, create)
    passphrase = folder / "passphrase"
    passphrase.write_text(PASSPHRASE)
    passphrase.chmod(0o600)
    added = site.command(
        "key", "add", f"--new-passphrase-file={passphrase}", "--label=second", "--kdf-memory=8"
    )
    subprocess.run(added, check=True, capture_output=True)
    run(site, "create", site.point.point, "lab")
    monkeypatch.delenv(KEY_FILE_VARIABLE)
    for action in ("start", "list"):
        run(site, action, *([] if action == "list" else ["lab"]), code=14)
    assert not (site.overlay / "root.raw").is_symlink()

    run(site, "start", "lab", "--fork", f"--passphrase-file={passphrase}")
    try:
        assert (site.overlay / "root.raw").read_bytes() == site.images["root"]
        (server,) = [
            int(path.name)
            for path in Path("/proc").iterdir()
            if path.name.isdigit() and _holds(int(path.name), site.overlay / "lock")
        ]
        assert_children_have_no_secret(server, 3)
        assert PASSPHRASE not in (site.overlay / "log").read_text()
    finally:
        run(site, "stop", "lab")
    site.end()


def _holds(process: int, path: Path) -> bool:
    try:
        return any(os.readlink(fd) == str(path) for fd in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


def test_an_export_of_an_encrypted_repository_has_holes_and_changes(
    folder: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(folder, create)
    with exported(site, f"--socket={site.sockets}", f"--since={site.before.point}") as export:
        assert_children_have_no_secret(export.child.pid, 3)
        uri = export.uris["root"]
        assert content(uri, tmp_path) == site.images["root"]
        extents = site.output("extents", site.point.point, "root", "--format=nbd")
        assert nbd_map(uri, "base:allocation") == extents
        points = site.before.point, site.point.point
        changes = site.output("diff", *points, "root", "--format=nbd")
        assert nbd_map(uri, f"qemu:dirty-bitmap:since-{site.before.name}") == changes

    monkeypatch.delenv(KEY_FILE_VARIABLE)
    site.refused(code=14)
