"""`cbtfs export`: the disks of a point by NBD, with holes and changes; faults, kills, clients."""

import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.errors import UsageError
from cbtfs.export.listen import parse_address, unix_listener
from cbtfs.export.serve import Place
from tests.certificates import add_client, make_authority
from tests.docs.documents import MemberTables
from tests.make_points import MEMORY, SIGNALS, add_point, new_repository
from tests.overlay.test_start import children_of
from tests.restore.test_several_disks import damage

pytestmark = pytest.mark.mounts

MIB: Final = 1 << 20
BLOCK: Final = 64 << 10


class Site:
    """A repository with two points: the second one has changes, and one more disk."""

    def __init__(self, path: Path, create: Callable[[Path, int], object] = new_repository) -> None:
        """*create* makes the repository at a path, with blocks of a size."""
        self.repository = path / "repo"
        self.sockets = path / "run"
        self.sockets.mkdir()
        create(self.repository, BLOCK)
        rng = random.Random(1)
        root = bytearray(rng.randbytes(MIB) + bytes(2 * MIB) + rng.randbytes(MIB))
        images = {"root": bytes(root), "my data": rng.randbytes(BLOCK + 1000)}
        self.before = add_point(self.repository, images, vm="web01")
        root[BLOCK] ^= 1
        root[2 * MIB] ^= 1
        root[-BLOCK:] = bytes(BLOCK)
        self.images = {**images, "root": bytes(root), "new": bytes(BLOCK)}
        self.point = add_point(self.repository, self.images, vm="web01")

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "cbtfs", f"--repo={self.repository}", *map(str, words)]

    def export(self, *options: object, point: str = "") -> list[str]:
        words = options or (f"--socket={self.sockets}",)
        return self.command("export", point or self.point.point, *words)

    def refused(self, *options: object, code: int = 2, point: str = "") -> str:
        """Run an export that must fail with *code* and one line; return the line."""
        done = subprocess.run(
            [*self.export(*options, point=point), "--quiet"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert done.stderr.startswith("cbtfs: ")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def output(self, *words: object) -> Any:
        done = subprocess.run(self.command(*words), capture_output=True, check=True)
        return json.loads(done.stdout)


@dataclass(frozen=True)
class Export:
    child: "subprocess.Popen[str]"
    uris: dict[str, str]
    document: dict[str, Any]


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="export-", dir=MEMORY) as path:
        yield Site(Path(path))


@contextmanager
def exported(site: Site, *options: object) -> Iterator[Export]:
    """Run an export; it is ready. End it by SIGTERM, if it still runs, and expect success."""
    child = subprocess.Popen(
        [*SIGNALS, *site.export(*options), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line, child.communicate()[1]
        document = json.loads(line)
        yield Export(child, {e["disk"]: e["uri"] for e in document["exports"]}, document)
        if child.poll() is None:
            child.terminate()
            _, errors = child.communicate(timeout=60)
            assert child.returncode == 0, errors
    finally:
        child.kill()
        child.communicate()


def nbd_map(uri: str, context: str) -> list[dict[str, Any]]:
    """Return the extents that nbdinfo prints, joined, without clean ones of a bitmap."""
    done = subprocess.run(
        ["nbdinfo", "--json", f"--map={context}", uri], capture_output=True, check=True
    )
    joined: list[dict[str, Any]] = []
    for item in json.loads(done.stdout):
        if joined and joined[-1]["type"] == item["type"]:
            joined[-1]["length"] += item["length"]
        else:
            joined.append(item)
    return joined


def content(uri: str, folder: Path) -> bytes:
    copy = folder / "copy.raw"
    subprocess.run(["nbdcopy", uri, copy], check=True, capture_output=True)
    return copy.read_bytes()


def on_sectors(image: bytes) -> bytes:
    return image.ljust(-(-len(image) // 512) * 512, b"\0")


def test_holes_and_changes_are_those_of_extents_and_diff(site: Site, tmp_path: Path) -> None:
    socket_option = f"--socket={site.sockets}"
    with exported(site, socket_option, f"--since={site.before.point}") as export:
        tables = MemberTables()
        tables.compare("export", export.document)
        assert tables.problems == []
        name = f"qemu:dirty-bitmap:since-{site.before.name}"
        contexts = {e["disk"]: e["contexts"] for e in export.document["exports"]}
        both = ["base:allocation", name]
        assert contexts == {"root": both, "my data": both, "new": both[:1]}

        uri = export.uris["root"]
        extents = site.output("extents", site.point.point, "root", "--format=nbd")
        assert nbd_map(uri, "base:allocation") == extents
        points = site.before.point, site.point.point
        changes = site.output("diff", *points, "root", "--format=nbd")
        assert [extent["type"] for extent in changes] == [0, 1, 0, 1, 0, 1]
        assert nbd_map(uri, name) == changes

        other = subprocess.Popen(["nbdcopy", uri, tmp_path / "other.raw"])  # two at once
        for label, image in site.images.items():
            assert content(export.uris[label], tmp_path) == on_sectors(image)
        assert other.wait(60) == 0
        assert (tmp_path / "other.raw").read_bytes() == site.images["root"]
        copy = tmp_path / "copy.raw"
        assert copy.stat().st_size == BLOCK
        write = ["qemu-io", "-f", "raw", "-c", "write 0 512", uri]
        assert subprocess.run(write, check=False, capture_output=True).returncode != 0
        mode = (site.sockets / "nbd.sock").stat().st_mode & 0o777
        assert mode == 0o600
        assert "in use" in site.refused(code=40)  # two exports in one directory
    assert os.listdir(site.sockets) == []


def test_an_export_survives_forget_and_prune(site: Site, tmp_path: Path) -> None:
    with exported(site, f"--socket={site.sockets}", f"--since={site.before.point}") as export:
        points = site.before.point, site.point.point
        changes = site.output("diff", *points, "root", "--format=nbd")
        subprocess.run(site.command("forget", *points, "--yes"), check=False, capture_output=True)
        subprocess.run(site.command("forget", *points), check=False, capture_output=True)
        subprocess.run(site.command("prune"), check=True, capture_output=True)
        assert site.output("list", "--json") in ([], {"points": []})
        context = f"qemu:dirty-bitmap:since-{site.before.name}"
        assert nbd_map(export.uris["root"], context) == changes
        assert content(export.uris["root"], tmp_path) == site.images["root"]
    site.refused(code=13)


def test_tcp_needs_a_certificate_of_the_authority(site: Site, tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "server")
    clients = {name: tmp_path / name for name in ("good", "bare", "other")}
    stranger = make_authority(tmp_path / "stranger")
    for name, folder in clients.items():
        folder.mkdir()
        shutil.copy(authority / "ca-cert.pem", folder)
        if name != "bare":
            add_client(folder, authority=authority if name == "good" else stranger)
    options = ("--listen=localhost:0", f"--tls-dir={authority}")
    with exported(site, *options) as export:
        uri = export.uris["root"]
        assert uri.startswith("nbds://localhost:")
        sizes = {}
        for name, folder in clients.items():
            info = ["nbdinfo", "--size", f"{uri}?tls-certificates={folder}"]
            done = subprocess.run(info, check=False, capture_output=True, text=True, timeout=60)
            sizes[name] = done.stdout.strip()
        assert sizes == {"good": str(len(site.images["root"])), "bare": "", "other": ""}
        plain = ["nbdinfo", "--size", uri.replace("nbds:", "nbd:")]
        assert subprocess.run(plain, check=False, capture_output=True).returncode != 0
        address = uri.removeprefix("nbds://").partition("/")[0]
        used = site.refused(f"--listen={address}", f"--tls-dir={authority}", code=40)
        assert "Address already in use" in used


def test_options_that_cannot_work_are_refused(site: Site, tmp_path: Path) -> None:
    def refused(*where: str | Path | None) -> str:
        directory, address, tls = where
        place = Place(
            None if directory is None else Path(directory),
            None if address is None else str(address),
            None if tls is None else Path(tls),
        )
        with pytest.raises(UsageError) as caught:
            place.check(site.repository)
        return str(caught.value)

    assert "client certificates" in site.refused("--listen=127.0.0.1:0")
    assert "either --socket" in refused(None, None, None)
    assert "either --socket" in refused(site.sockets, "localhost:0", tmp_path)
    assert "--tls-dir belongs to" in refused(site.sockets, None, tmp_path)
    assert "ca-cert.pem" in refused(None, "127.0.0.1:0", tmp_path)
    for address in ("localhost", "::1:0", ":10809", "host:70000", "host:x", "host:²", "[]:1"):
        assert "HOST:PORT" in refused(None, address, tmp_path)
    assert parse_address("[::1]:80") == ("::1", 80)
    assert "inside the repository" in refused(site.repository, None, None)
    assert "not a directory" in refused(tmp_path / "none", None, None)
    deep = tmp_path / ("d" * 108)
    deep.mkdir()
    with pytest.raises(UsageError, match="longer than 107 bytes"), unix_listener(deep):
        pass
    later = site.refused(
        f"--socket={site.sockets}", f"--since={site.point.point}", point=site.before.point
    )
    assert "not an earlier point" in later
    for name in ("file", "link"):
        (site.sockets / name).mkdir()
    (site.sockets / "file" / "nbd.sock").write_text("mine")
    (site.sockets / "link" / "nbd.sock").symlink_to("elsewhere")
    for name in ("file", "link"):
        with pytest.raises(UsageError, match="exists"), unix_listener(site.sockets / name):
            pass
    assert (site.sockets / "file" / "nbd.sock").read_text() == "mine"
    assert (site.sockets / "link" / "nbd.sock").is_symlink()


def test_a_missing_program_is_one_line_that_names_the_package(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/sbin")
    assert "qemu-system-common" in site.refused()


def test_kills_leave_no_process_and_no_mount(site: Site) -> None:
    for victim in ("daemon", "mount", "export"):
        with exported(site) as export:
            children = children_of(export.child.pid)
            mountpoint = _mountpoint(children["mount"])
            killed = export.child.pid if victim == "export" else children[victim]
            os.kill(killed, signal.SIGKILL)
            code = export.child.wait(60)
            assert code == (-signal.SIGKILL if victim == "export" else 40)
            for child in children.values():
                wait_for_end(child)
            assert mountpoint not in Path("/proc/self/mounts").read_text()
        left = os.listdir(site.sockets)
        assert left == (["nbd.sock"] if victim == "export" else [])
    with exported(site), socket.socket(socket.AF_UNIX) as client:  # replaces the dead socket
        client.connect(str(site.sockets / "nbd.sock"))


def wait_for_end(pid: int) -> None:
    """Wait until the kernel has ended a process that is no child of this one."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], 60)[0]
    finally:
        os.close(fd)


def _mountpoint(process: int) -> str:
    words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
    (mountpoint,) = [word for word in words if "/cbtfs-restore-" in word and "\n" not in word]
    return mountpoint


def test_a_damaged_point_fails_before_a_daemon_starts(site: Site, tmp_path: Path) -> None:
    with exported(site) as export:
        damage(site.repository, site.images["root"][3 * MIB : 3 * MIB + BLOCK])
        read = "read 3145728 4096"
        io = ["qemu-io", "-r", "-f", "raw", "-c", read, export.uris["root"]]
        assert subprocess.run(io, check=False, capture_output=True).returncode != 0
        assert content(export.uris["my data"], tmp_path) == on_sectors(site.images["my data"])
    for pack in site.repository.glob("packs/*/*"):
        if len(pack.name) == 32:
            os.truncate(pack, 100)
    site.refused(code=20)
    assert os.listdir(site.sockets) == []


def test_names_are_those_of_the_mount_and_the_service_manager_is_notified(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point: Manifest = add_point(site.repository, {"a/b ü": bytes(BLOCK)}, vm="odd")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with _of(site, point) as uri:
            assert manager.recv(4096) == b"READY=1\nSTATUS=odd@" + point.name.encode()
            done = subprocess.run(["nbdinfo", "--size", uri], capture_output=True, check=True)
            assert done.stdout.strip() == str(BLOCK).encode()
        assert manager.recv(4096) == b"STOPPING=1"


@contextmanager
def _of(site: Site, point: Manifest) -> Iterator[str]:
    site.point = point
    with exported(site) as export:
        (uri,) = export.uris.values()
        yield uri
