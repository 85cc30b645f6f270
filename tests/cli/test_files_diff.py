"""`cbtfs files diff`: arguments, output, exit codes. tests/files/test_diff.py has the changes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.run_cbtfs import Run
from tests.make_points import add_point, new_repository

HOSTILE = "new\n\x1b[31mline"


def image(folder: Path, files: dict[str, str]) -> bytes:
    """Return an ext4 file system with these files in /etc."""
    content, path = folder / "content", folder / "image"
    (content / "etc").mkdir(parents=True)
    for name, text in files.items():
        (content / "etc" / name).write_text(text)
        os.utime(content / "etc" / name, (1, 1))
    for directory in (content, content / "etc"):
        os.utime(directory, (1, 1))
    options = ("-t", "ext4", "-O", "^has_journal", "-d", str(content))
    environment = {**os.environ, "E2FSPROGS_FAKE_TIME": "1"}  # Of /lost+found.
    subprocess.run(["mke2fs", "-q", *options, path, "1M"], check=True, env=environment)
    return path.read_bytes()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with three points of a guest, which no test changes."""
    folder = tmp_path_factory.mktemp("diff")
    path = new_repository(folder / "repository", 1 << 16)
    states = ({"hosts": "old", "gone": "x", "same": "1"}, {"hosts": "newer", "same": "1"})
    for number, files in enumerate((*states, {"hosts": "newer", "same": "2", HOSTILE: ""})):
        (folder / str(number)).mkdir()
        data = image(folder / str(number), files)
        if number == 2:
            data = data.replace(b"newer", b"nevER")
        add_point(path, {"root": data}, vm="web01")
    return path


def test_changes_are_listed_with_what_changed(run: Run) -> None:
    done = run("files", "diff", "web01@latest~2", "web01@latest~1")

    assert done.code == 0
    assert done.out.splitlines() == [
        "removed /etc/gone",
        "changed /etc/hosts (size 3 to 5, content)",
    ]
    assert "0 added, 1 removed, 1 changed" in done.err
    assert done.err.count("volume root: ext4, engine parse") == 1


def test_a_content_is_compared_although_size_and_time_are_equal(run: Run) -> None:
    done = run("files", "diff", "web01@latest~1", "web01@latest", "/etc/hosts")

    assert done.out == "changed /etc/hosts (content)\n"


def test_names_are_escaped(run: Run) -> None:
    done = run("files", "diff", "web01@latest~1", "web01@latest")

    assert "\x1b" not in done.out + done.err
    assert len(done.out.splitlines()) == 3
    assert "added   /etc/new" in done.out


def test_a_document_has_both_sides(run: Run) -> None:
    words = ("files", "diff", "web01@latest~2", "web01@latest~1", "--json", "--volume=root")
    document = json.loads(run(*words).out)

    assert (document["added"], document["removed"], document["changed"]) == (0, 1, 1)
    gone, hosts = document["changes"]
    assert gone["after"] is None
    assert gone["before"]["type"] == "file"
    assert (hosts["before"]["size"], hosts["after"]["size"]) == (3, 5)
    assert hosts["aspects"] == ["size", "content"]
    assert document["a"]["file_systems"][0]["engine"] == "parse"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("web01", "web01", "etc"), 2, "'etc' is not an absolute path in the guest"),
        (("web01", "web01", "/missing"), 13, "/missing"),
        (("web01", "nobody"), 13, "nobody"),
        (("web01", "web01", "--volume=data"), 13, "no volume 'data'"),
    ],
)
def test_a_wrong_argument_is_one_line(
    run: Run, words: tuple[str, ...], code: int, message: str
) -> None:
    done = run("files", "diff", *words)

    assert done.code == code
    assert message in done.err


def test_a_directory_that_cannot_be_read_is_left_out(run: Run, tmp_path: Path) -> None:
    repository = new_repository(tmp_path / "repository", 1 << 16)
    intact = image(tmp_path, {"hosts": "x"})
    damaged = bytearray(intact)
    at = damaged.index(b"hosts")
    damaged[at - 4 : at - 2] = b"\x03\x00"
    for data in (intact, bytes(damaged)):
        add_point(repository, {"root": data}, vm="web01")
    done = run("files", "diff", "web01@latest~1", "web01@latest", "--repo", str(repository))

    assert done.code == 21
    assert done.out == ""
    assert "left out: /etc: " in done.err
