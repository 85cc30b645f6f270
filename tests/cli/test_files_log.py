"""`cbtfs files log`: arguments, output and exit codes. tests/files/test_log.py has the versions."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.run_cbtfs import Run
from tests.make_points import add_point, new_repository


def image(folder: Path, **files: str) -> bytes:
    """Return an ext4 file system with these files in /etc."""
    content, path = folder / "content", folder / "image"
    (content / "etc").mkdir(parents=True)
    for name, text in files.items():
        (content / "etc" / name).write_text(text)
    options = ("-t", "ext4", "-O", "^has_journal", "-d", str(content))
    subprocess.run(["mke2fs", "-q", *options, path, "1M"], check=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository with four points of a guest, which no test changes."""
    folder = tmp_path_factory.mktemp("log")
    path = new_repository(folder / "repository", 1 << 16)
    for number, files in enumerate(({"hosts": "old"}, {"hosts": "old"}, {"hosts": "newer"}, {})):
        if number != 1:
            (folder / str(number)).mkdir()
            data = image(folder / str(number), **files)
        add_point(path, {"root": data}, vm="web01")
    return path


def test_versions_are_listed_with_their_points(run: Run) -> None:
    done = run("files", "log", "web01:/etc/hosts")
    rows = [line.split() for line in done.out.splitlines()]

    assert rows[0] == ["FIRST", "LAST", "POINTS", "MODE", "SIZE", "MODIFIED"]
    assert [row[2:5] for row in rows[1:3]] == [["2", "-rw-r--r--", "3"], ["1", "-rw-r--r--", "5"]]
    assert rows[3][2:] == ["1", "(absent)"]
    assert "volume root, 4 points, engine parse" in done.err


def test_a_document_has_all_versions(run: Run) -> None:
    versions = json.loads(run("files", "log", "web01:/etc/hosts", "--json").out)["versions"]

    assert [version["state"] for version in versions] == ["present", "present", "absent"]
    assert [version["points"] for version in versions] == [2, 1, 1]
    assert [version["size"] for version in versions] == [3, 5, None]
    assert [version["engine"] for version in versions] == ["parse", "parse", None]


@pytest.mark.parametrize(
    ("location", "options", "code", "message"),
    [
        ("web01", (), 2, "'web01' is not VM:/PATH; e.g. web01:/etc/hosts"),
        ("web01:/etc/../x", (), 2, "'..' is not allowed"),
        ("nobody:/etc", (), 13, "nobody"),
        ("web01:/etc/missing", (), 13, "no point has this file on volume root"),
        ("web01:/etc/hosts", ("--engine", "kernel"), 2, "none of auto, parse, appliance"),
        ("web01:/etc/hosts", ("--volume", "data"), 13, "no point has this file on volume data"),
    ],
)
def test_a_wrong_location_is_one_line(
    run: Run, location: str, options: tuple[str, ...], code: int, message: str
) -> None:
    done = run("files", "log", location, *options)

    assert done.code == code
    assert message in done.err


def test_a_root_and_a_directory_have_versions(run: Run) -> None:
    assert "drwxr-xr-x" in run("files", "log", "web01:/").out
    assert "drwxr-xr-x" in run("files", "log", "web01:/etc/", "--volume=root").out
