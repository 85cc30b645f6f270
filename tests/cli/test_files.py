"""`cbtfs files`: arguments, output and exit codes. tests/files has the file systems."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.cli.run_cbtfs import Run
from tests.make_points import add_point, new_repository

HOSTILE = "\x1b[31mred\nline"


UUID = "6f1e8bd0-0d5a-4a3c-9d2a-3a7bd0e8f111"


def make_image(folder: Path) -> bytes:
    """Return an ext4 file system, made without a mount."""
    content = folder / "content"
    (content / "etc").mkdir(parents=True)
    (content / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    (content / "etc" / "link").symlink_to("/etc/hosts")
    (content / "etc" / HOSTILE).touch()
    (content / "etc" / os.fsdecode(b"\xff")).touch()
    (content / "home").mkdir()
    (content / "home" / "letter.docx").write_bytes(bytes(range(256)))
    (content / "program").write_text("#!")
    (content / "program").chmod(0o4755)
    os.mkfifo(content / "fifo")
    image = folder / "image"
    return mke2fs(image, content)


def mke2fs(image: Path, content: Path, *more: str) -> bytes:
    """Return an ext4 file system with the files of a directory."""
    options = ("-t", "ext4", "-O", "^has_journal", "-d", str(content), *more)
    subprocess.run(["mke2fs", "-q", *options, image, "1M"], check=True)
    return image.read_bytes()


def make_guest(folder: Path) -> dict[str, bytes]:
    """Return the disks of a guest that mounts two file systems; one cannot be read."""
    root, home = folder / "root", folder / "home"
    for path in (root / "etc", root / "home" / "hidden", root / "srv", home / "ann"):
        path.mkdir(parents=True)
    (root / "etc" / "fstab").write_text(f"UUID={UUID} /home ext4\nLABEL=future /srv ext4\n")
    (root / "letters").symlink_to("/home/ann")
    (home / "ann" / "letter").write_text("Dear Bob")
    future = bytearray(mke2fs(folder / "future.img", home, "-L", "future"))
    future[1024 + 0x63] = 0x80
    return {
        "data": mke2fs(folder / "home.img", home, "-U", UUID),
        "root": mke2fs(folder / "root.img", root),
        "new": bytes(future),
        "spare": mke2fs(folder / "spare.img", home),
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository that no test changes, with intact and damaged guests."""
    folder = tmp_path_factory.mktemp("files")
    image = make_image(folder)
    superblock = bytearray(image)
    superblock[1024 + 0x20 : 1024 + 0x24] = bytes(4)
    path = new_repository(folder / "repository", 1 << 16)
    add_point(path, {"root": image}, vm="web01")
    add_point(path, {"root": without_a_type(image)}, vm="one-damaged-inode")
    add_point(path, {"root": bytes(superblock)}, vm="damaged-superblock")
    add_point(path, {"root": image, "data": image}, vm="two-disks")
    add_point(path, {"root": bytes(1 << 16)}, vm="empty")
    add_point(path, make_guest(folder), vm="placed")
    return path


def without_a_type(image: bytes) -> bytes:
    """Return an image whose file with 256 bytes has an inode without a type."""
    data = bytearray(image)
    for at in range(0, len(data) - 128, 128):
        if data[at : at + 2] == b"\xa4\x81" and data[at + 4 : at + 8] == b"\0\1\0\0":
            data[at : at + 2] = bytes(2)
    return bytes(data)


def output(repository: Path, *words: str) -> bytes:
    """Run a command in a process of its own; return its standard output as bytes."""
    command = [sys.executable, "-m", "cbtfs", "--repo", str(repository), "files", *words]
    done = subprocess.run(command, capture_output=True, check=True, env=dict(os.environ))
    return done.stdout


def test_a_directory_is_listed(run: Run) -> None:
    done = run("files", "ls", "web01@latest:/etc")

    lines = done.out.splitlines()
    modes = [line.split()[0] for line in lines]
    assert modes == ["MODE", "-rw-r--r--", "-rw-r--r--", "lrwxrwxrwx", "-rw-r--r--"]
    assert lines[-2].endswith("Z  link -> /etc/hosts")
    assert lines[-1].endswith("Z  \\udcff")
    assert "\\x1b[31mred\\nline" in done.out
    assert "\x1b" not in done.out
    assert "volume root: ext4, engine parse" in done.err


def test_one_file_is_listed(run: Run) -> None:
    done = run("files", "ls", "web01:/program", "--json")

    [file] = done.document["files"]
    assert (file["path"], file["mode"], file["size"]) == ("/program", "4755", 2)
    assert done.document["file_systems"] == [
        {"volume": "root", "kind": "ext4", "engine": "parse", "notes": []}
    ]


def test_the_facts_of_a_file_are_shown(run: Run) -> None:
    done = run("files", "stat", "web01:/etc/link")

    assert "type      link\n" in done.out
    assert "target    /etc/hosts\n" in done.out


@pytest.mark.parametrize("path", ["//etc/./hosts", "/home/../etc/hosts", "/etc/link"])
def test_a_path_is_resolved_in_the_guest(run: Run, path: str) -> None:
    done = run("files", "cat", f"web01:{path}", "--json")

    assert done.document["path"] == "/etc/hosts"


def test_the_content_of_a_file_is_printed_as_it_is(repository: Path) -> None:
    assert output(repository, "cat", "web01:/home/letter.docx") == bytes(range(256))


def test_a_point_may_contain_a_time(run: Run) -> None:
    done = run("files", "cat", "web01@2026-01-01T23:59:/etc/hosts", "--time-zone=UTC", "--json")

    assert done.document["content"] == "MTI3LjAuMC4xIGxvY2FsaG9zdAo="


def test_files_are_found_by_name(run: Run) -> None:
    done = run("files", "find", "web01:/", "*.docx")
    everything = run("files", "find", "web01:/", "--json")

    assert done.out == "/home/letter.docx\n"
    paths = [file["path"] for file in everything.document]
    assert len(paths) == len(set(paths)) == 11
    assert f"/etc/{HOSTILE}" in paths


def test_paths_are_printed_as_they_are_on_demand(repository: Path) -> None:
    paths = output(repository, "find", "web01:/etc", "--print0").split(b"\0")

    assert f"/etc/{HOSTILE}".encode() in paths
    assert b"/etc/\xff" in paths


def test_files_are_extracted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    done = run("files", "extract", "web01:/etc", "web01:/program", tmp_path / "out", "--json")

    assert done.code == 0
    assert done.document["files"] == 5
    assert (tmp_path / "out" / "etc" / "hosts").read_text() == "127.0.0.1 localhost\n"
    assert (tmp_path / "out" / "etc" / HOSTILE).exists()
    assert (tmp_path / "out" / "program").stat().st_mode & 0o7777 == 0o755
    assert done.document["set_id_files"] == 1


def test_one_file_gets_a_new_name(run: Run, tmp_path: Path) -> None:
    done = run("files", "extract", "web01:/etc/hosts", tmp_path / "restored")

    assert done.code == 0
    assert (tmp_path / "restored").read_text() == "127.0.0.1 localhost\n"
    assert "extracted 1 files" in done.err


def test_an_archive_is_written_to_standard_output(repository: Path) -> None:
    stream = io.BytesIO(output(repository, "extract", "web01:/etc", "web01:/home", "-"))

    with tarfile.open(fileobj=stream) as archive:
        file = archive.extractfile("etc/hosts")
        assert file is not None
        assert file.read() == b"127.0.0.1 localhost\n"
        assert "home/letter.docx" in archive.getnames()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["ls", "web01"], 2, "'web01' is not POINT:/PATH"),
        (["ls", ":/etc"], 2, "is not POINT:/PATH"),
        (["ls", "web01:/nothing"], 13, "/nothing: no such file"),
        (["cat", "web01:/etc"], 2, "/etc is a directory"),
        (["cat", "web01:/fifo"], 2, "/fifo is a fifo"),
        (["ls", "web02:/etc"], 13, "no point or VM"),
        (
            ["ls", "web01:/etc", "--volume=root.p1"],
            13,
            "no volume 'root.p1' in this point; it has root",
        ),
        (["find", "web01:/", "--print0", "--json"], 2, "mutually exclusive"),
        (["extract", "web01:/etc"], 2, "extract takes"),
        (["extract", "web01:/etc", "-", "--json"], 2, "mutually exclusive"),
        (["extract", "web01:/etc", "web01:/home"], 2, "TARGET is missing"),
        (["extract", "web01:/etc", "web01:/home", "/nothing"], 2, "is not a directory"),
        (["extract", "web01:/etc", "/nothing/name"], 2, "/nothing: No such file"),
        (["extract", "web01:/etc", "/etc/hosts"], 2, "/etc/hosts exists"),
    ],
)
def test_an_error_is_one_line(run: Run, words: list[str], code: int, message: str) -> None:
    done = run("files", *words)

    assert done.code == code
    [line] = [line for line in done.err.splitlines() if message in line]
    assert line.startswith("cbtfs: ")


def test_files_that_are_left_out_are_listed(run: Run, tmp_path: Path) -> None:
    done = run("files", "extract", "one-damaged-inode:/home", tmp_path / "home", "--json")

    assert done.code == 3
    [left] = done.document["left_out"]
    assert left["path"] == "/home/letter.docx"
    assert "has no type" in left["reason"]
    assert "left out: /home/letter.docx: damaged" in done.err
    assert list((tmp_path / "home").iterdir()) == []


def test_a_damaged_file_system_has_its_exit_code(run: Run) -> None:
    done = run("files", "ls", "damaged-superblock:/", "--json")

    assert done.code == 21
    assert done.document["error"]["message"].startswith("volume root: ")


def test_volumes_of_an_unknown_guest_are_directories(run: Run) -> None:
    done = run("files", "ls", "two-disks:/", "--json")
    whole = run("files", "find", "two-disks:/", "letter.docx")
    chosen = run("files", "find", "two-disks:/home", "--volume", "data", "--json")

    assert [file["path"] for file in done.document["files"]] == ["/data", "/root"]
    assert whole.out == "/data/home/letter.docx\n/root/home/letter.docx\n"
    assert {file["volume"] for file in chosen.document} == {"data"}


def test_a_disk_without_a_file_system_is_refused(run: Run) -> None:
    done = run("files", "ls", "empty:/")

    assert done.code == 12
    assert "no volume of this point has files: root (unknown)" in done.err


def test_volumes_are_placed_as_in_the_guest(run: Run) -> None:
    done = run("files", "find", "placed:/home", "--json")
    by_link = run("files", "cat", "placed:/letters/letter", "--json")

    shown = {file["path"]: file["volume"] for file in done.document}
    assert shown["/home/ann/letter"] == "data"
    assert "/home/hidden" not in shown
    assert by_link.document["path"] == "/home/ann/letter"
    assert by_link.document["notes"] == [
        "volumes that the guest does not mount: spare; see --volume"
    ]


def test_a_volume_that_cannot_be_read_is_reported_and_not_hidden(run: Run, tmp_path: Path) -> None:
    listed = run("files", "ls", "placed:/", "--json", "--engine=parse")
    found = run("files", "find", "placed:/", "--engine=parse")
    asked = run("files", "ls", "placed:/srv", "--engine=parse")
    extracted = run("files", "extract", "placed:/", tmp_path, "--json", "--engine=parse")

    [srv] = [file for file in listed.document["files"] if file["path"] == "/srv"]
    assert "ext features 0x80000000 are unknown" in srv["defect"]
    assert found.code == 3
    assert "left out: /srv: volume new: ext features 0x80000000" in found.err
    assert asked.code == 12
    assert extracted.code == 3
    assert [left["path"] for left in extracted.document["left_out"]] == ["/srv"]
    assert (tmp_path / "root" / "home" / "ann" / "letter").read_text() == "Dear Bob"
