"""docs/commands.md: the tables have exactly the members that the program prints."""

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cbtfs.cli.main import main
from tests.docs.documents import MemberTables
from tests.make_points import BLOCK, add_point, new_repository
from tests.scenarios.vsphere.server import at
from tests.scenarios.vsphere.site import MIB
from tests.volumes.images import gpt_disk
from tools.vsim import DiskEntry, Inventory, MachineEntry, Simulator
from tools.vsim.soap.certificate import make_certificate

_INDEPENDENT = DiskEntry(size=MIB, mode="independent_persistent")
_MACHINES = (
    MachineEntry("web1", disks=(DiskEntry(size=MIB),)),
    MachineEntry("aside", disks=(DiskEntry(size=MIB), _INDEPENDENT)),
    MachineEntry("mould", template=True, disks=(DiskEntry(size=MIB),)),
)
_ELSEWHERE = {
    *("status", "listed point", "demo", "mount", "umount", "watch"),
    *("overlay start", "overlay boot", "overlay stop", "overlay commit", "export"),
    *("bisect", "named point", "prove", "proof"),
}
"""Documents of a mount, and lines of a watch: tests/mount/test_status.py, tests/demo/test_demo.py,
tests/scenarios/vsphere/test_watch_command.py, tests/overlay, tests/export, tests/bisect and
tests/prove compare these."""

RECIPIENT = "age1mpvj2fxm4mtcvfgjq6gr32q2ugl7a8hgzyk4xtuhc4zxgezquf7sfc0j3e"
Capture = pytest.CaptureFixture[str]


def secret(path: Path) -> Path:
    path.write_text("passphrase")
    path.chmod(0o600)
    return path


class Printed:
    """Runs commands with --json and compares their documents with the tables."""

    def __init__(self, repository: Path, capsys: Capture) -> None:
        self.tables = MemberTables()
        self.repository = repository
        self.capsys = capsys

    def __call__(self, name: str, *words: str | Path, form: str = "--json") -> Any:
        """Run a command; its document is that of the table *name*."""
        self.capsys.readouterr()
        main(["--repo", str(self.repository), *map(str, words), *form.split()])
        out, err = self.capsys.readouterr()
        assert out, err
        document = json.loads(out)
        self.tables.compare(name, document)
        return document


@pytest.fixture
def printed(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Printed:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "vsim")
    return Printed(tmp_path / "repository", capsys)


def test_the_tables_have_the_members_that_commands_print(printed: Printed, tmp_path: Path) -> None:
    _images(printed, tmp_path)
    _virtual_machines(printed, tmp_path)
    _lifecycle(printed)
    _damage(printed)

    assert printed.tables.problems == []
    assert [row for row in printed.tables.never_printed() if row[0] not in _ELSEWHERE] == []


def _images(printed: Printed, folder: Path) -> None:
    disk = folder / "disk.raw"
    disk.write_bytes(b"1" * BLOCK + bytes(BLOCK))
    printed("init", "init", "--block-size", str(BLOCK))
    for vm in ("web", "web", "db"):
        disks = f"--disk=a={disk}", f"--disk=b={disk}"
        printed("ingest image", "ingest", "image", "--vm", vm, *disks)
        disk.write_bytes(b"2" * BLOCK * 3)
    disk.write_bytes(gpt_disk(MIB, 512, [(64, 127), (2000, 9999)]))
    printed("ingest image", "ingest", "image", "--vm=partitions", f"--disk=a={disk}")
    printed("show", "show", "web")
    printed("show", "show", "partitions")
    printed("show with", "show", "*")
    printed("stats", "stats")
    printed("extents", "extents", "web", "a")
    printed("diff", "diff", "web@latest~1", "web", "a")
    printed("blame", "blame", "web", "a")
    for form in ("qemu", "nbd"):
        shape = f"--format {form}"
        printed(f"extents {shape}", "extents", "web", "a", form=shape)
        printed(f"diff {shape}", "diff", "web@latest~1", "web", "a", form=shape)
    printed("restore", "restore", "web", "a", folder / "restored")
    in_place = "restore", "--in-place", "web", "a", folder / "restored"
    printed("restore --in-place", *in_place)
    printed("restore --in-place", *in_place, "--from", "web")
    (folder / "many").mkdir()
    printed("restore with", "restore", "web", "*", folder / "many")
    printed("restore --all", "restore", "--all", folder / "all", "web")
    next((folder / "all").rglob("a.raw")).unlink()
    printed("restore --all", "restore", "--all", folder / "all", "web")
    disk.write_bytes(ext4_image(folder))
    printed("ingest image", "ingest", "image", "--vm=guest", f"--disk=a={disk}")
    printed("files ls", "files", "ls", "guest:/")
    printed("files stat", "files", "stat", "guest:/file")
    printed("files cat", "files", "cat", "guest:/file")
    printed("file", "files", "find", "guest:/")
    printed("files log", "files", "log", "guest:/file")
    printed("files extract", "files", "extract", "guest:/", folder / "extracted")
    disk.write_bytes(changed_image(disk.read_bytes()))
    printed("ingest image", "ingest", "image", "--vm=guest", f"--disk=a={disk}")
    printed("files index", "files", "index", "guest@latest~1", "guest@latest")
    printed("files find --in", "files", "find", "--in", "guest", "file")
    printed("files diff", "files", "diff", "guest@latest~1", "guest@latest")
    overlays = f"--dir={folder / 'overlays'}"
    printed("overlay create", "overlay", "create", "web", "lab", overlays)
    printed("overlay list", "overlay", "list")
    printed("overlay discard", "overlay", "discard", "lab", overlays)
    printed("error", "show", "wbe")


def ext4_image(folder: Path) -> bytes:
    """Return an ext4 file system with a file and a device."""
    content, image = folder / "content", folder / "ext4.img"
    content.mkdir()
    (content / "file").write_text("content")
    (content / "directory").mkdir()
    (content / "directory" / "inside").touch()
    os.mknod(content / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", content, image, "1M"],
        check=True,
        capture_output=True,
    )
    return image.read_bytes()


def changed_image(image: bytes) -> bytes:
    """Return an image with another content of the file, and a damaged directory."""
    data = bytearray(image.replace(b"content", b"CONTENT"))
    entry = data.index(b"inside") - 8
    data[entry + 4 : entry + 6] = b"\x03\x00"
    return bytes(data)


def _virtual_machines(printed: Printed, folder: Path) -> None:
    certificate = make_certificate(folder)
    with Simulator(Inventory(machines=_MACHINES), certificate=certificate) as sim:
        printed("cbt status", "cbt", "status", *at(sim), "web1", "nobody")
        printed("cbt enable", "cbt", "enable", *at(sim), "web1", "nobody")
        printed("cbt reset", "cbt", "reset", *at(sim), "web1")
        printed("doctor", "doctor", *at(sim), "*", "nobody")
        sim.do.power("web1", "off")
        printed("doctor --try-nfc", "doctor", "--try-nfc", *at(sim), "web1")
        sim.do.power("web1", "on")
        vms = ("web1", "aside", "mould", "nobody")
        printed("ingest vsphere", "ingest", "vsphere", *at(sim), "--allow-partial", *vms)
    printed("list", "list")
    printed("show", "show", "web1")


def _lifecycle(printed: Printed) -> None:
    printed("protect", "protect", "db")
    printed("tag", "tag", "db", "kept")
    points = printed("list", "list", "web")["points"]
    printed("forget", "forget", "--keep-last", "1", "--dry-run")
    printed("forget", "forget", points[0]["id"])
    printed("unforget", "unforget", points[0]["id"])
    printed("forget", "forget", "--prune", points[0]["id"])
    config = printed.repository.with_name("config.toml")
    config.write_text("[job.nightly]\nsteps = ['unlock']")
    config.chmod(0o600)
    printed("run", "--config", config, "run", "nightly")
    printed("prune", "prune")
    second = printed.repository.with_name("second")
    main(["--repo", str(second), "init", "--related", str(printed.repository)])
    printed("copy", "copy", f"--to={second}")
    printed("upgrade", "--repo", second, "upgrade", "--shared-writers")
    third, key = printed.repository.with_name("third"), printed.repository.with_name("key")
    words = ("--repo", third, "--key-file", key)
    printed("init", *words, "init", "--encrypt", "--no-recovery", "--age-recipient", RECIPIENT)
    printed("key list", *words, "key", "list")
    printed("key rotate", *words, "key", "rotate")
    role = key.with_name("role")
    printed("key export", *words, "key", "export", role, "--role=capture")
    printed("key list", "--repo", third, "--key-file", role, "key", "list")
    for subcommand in ("add", "remove", "passwd", "test"):
        name = f"key {subcommand}"
        extra = {
            "add": ("--new-passphrase-file", secret(key.with_name("p")), "--kdf-memory=8"),
            "remove": ("age",),
            "passwd": ("--new-passphrase-file", key.with_name("p"), "--kdf-memory=8"),
            "test": (),
        }[subcommand]
        printed(name, *words, "key", subcommand, *extra)
    printed("repair", "repair")
    printed("repair --create-markers", "repair", "--create-markers")
    printed("unlock", "unlock")
    printed("check", "check")


def _damage(printed: Printed) -> None:
    """A repository with a changed byte in a chunk."""
    damaged = printed.repository.with_name("damaged")
    add_point(new_repository(damaged), {"disk": b"x" * BLOCK})
    (pack,) = damaged.glob("packs/*/*")
    data = bytearray(pack.read_bytes())
    data[150] ^= 1
    pack.write_bytes(data)
    printed.repository = damaged
    assert printed("check", "check", "--read-data")["problems"]
    lost = damaged.with_name("lost")
    printed("restore", "restore", "--keep-going", "vm", "disk", lost)
    lost.write_bytes(b"\xff" * lost.stat().st_size)
    in_place = "restore", "--in-place", "--keep-going", "vm", "disk", lost
    printed("restore --in-place", *in_place)
