"""`cbtfs files index` and `files find --in`: arguments, output and exit codes."""

import json
import subprocess
from pathlib import Path

import pytest

from cbtfs.store.file_indexes import FileIndexes
from tests.cli.run_cbtfs import Run
from tests.make_points import add_point, new_repository


def image(folder: Path, *names: str) -> bytes:
    """Return an ext4 file system with these files in /home."""
    content, path = folder / "content", folder / "image"
    (content / "home").mkdir(parents=True)
    for name in names:
        (content / "home" / name).write_text(name)
    options = ("-t", "ext4", "-O", "^has_journal", "-d", str(content))
    subprocess.run(["mke2fs", "-q", *options, path, "1M"], check=True)
    return path.read_bytes()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with three points of a guest, and one of a disk without files."""
    path = new_repository(tmp_path / "repository", 1 << 16)
    for number, names in enumerate((("a.docx",), ("a.docx", "b\x1b[31m.docx"), ("c.txt",))):
        (tmp_path / str(number)).mkdir()
        data = image(tmp_path / str(number), *names)
        add_point(path, {"root": data}, vm="web01")
    add_point(path, {"root": bytes(1 << 16)}, vm="db01")
    return path


def test_due_points_are_indexed_once_and_searched(run: Run, repository: Path) -> None:
    done = run("files", "index", "--due")

    assert done.code == 3
    assert len([line for line in done.out.splitlines() if "indexed, " in line]) == 3
    assert "db01@" in done.err
    assert run("files", "index", "--due").out == ""
    assert "present" in run("files", "index", "web01").out

    found = run("files", "find", "--in", "web*", "*.docx")
    assert found.code == 0
    paths = {line.split()[7] for line in found.out.splitlines()[1:]}
    assert paths == {"/home/a.docx", "/home/b\\x1b[31m.docx"}
    assert "\x1b" not in found.out
    assert "3 points of 1 VMs, engine parse" in found.err


def test_points_without_an_index_are_named(run: Run, repository: Path) -> None:
    run("files", "index", "web01")
    done = run("files", "find", "--in", "web01", "--json", "c.*")

    assert done.code == 3
    (item,) = json.loads(done.out)
    assert (item["path"], item["type"], item["size"], item["points"]) == (
        "/home/c.txt",
        "file",
        5,
        1,
    )
    assert "not searched: web01@" in done.err
    assert "cbtfs files index --due" in done.err
    assert run("files", "find", "--in", "db01", "*").code == 3


def test_the_engine_of_each_result_is_named(run: Run) -> None:
    indexed = run("files", "index", "web01", "--json").document["points"]
    found = run("files", "find", "--in", "web01", "c.txt", "--engine=parse", "--json").document
    others = run("files", "find", "--in", "web01", "c.txt", "--engine=appliance")

    assert [point["file_systems"] for point in indexed] == [
        [{"path": "/", "volume": "root", "kind": "ext4", "engine": "parse"}]
    ]
    assert [item["engines"] for item in found] == [["parse"]]
    assert others.code == 3
    assert "/home/c.txt" not in others.out
    assert "its index is by the engine parse" in others.err
    assert "--engine appliance' for this point" in others.err


def test_only_points_since_a_time_are_searched(run: Run, repository: Path) -> None:
    run("files", "index", "web01@latest")

    assert run("files", "find", "--in", "web01", "--since", "2026-01-01T00:00:03Z", "*").code == 0
    late = run("files", "find", "--in", "web01", "--since", "2027-01-01", "*")
    assert late.code == 13
    assert "--since 2027-01-01" in late.err


def test_a_damaged_index_is_reported_and_rebuilt(run: Run, repository: Path) -> None:
    run("files", "index", "web01@latest")
    with FileIndexes(repository) as indexes:
        (point,) = indexes.ids()
        data = bytearray(indexes.load(point))
        data[-1] ^= 1
        indexes.put(point, bytes(data))
    searched = run("files", "find", "--in", "web01", "--since", "2026-01-01T00:00:03Z", "*")
    checked = run("check")
    rebuilt = run("files", "index", point)

    assert searched.code == 3
    assert f"the index indexes/{point} is damaged" in searched.err
    assert (checked.code, rebuilt.code) == (21, 0)
    assert f"run 'cbtfs files index {point[:12]}'" in checked.out
    assert "indexed, " in rebuilt.out
    assert run("check").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("index",), "name points, or use --due"),
        (("index", "--due", "web01"), "name points, or use --due"),
        (("find", "--in", "web01", "a", "b"), "--in takes one PATTERN"),
        (("find", "--in", "web01", "--print0"), "--in takes one PATTERN"),
        (("find", "--in", "web01", "--luks-key-file", "k"), "--in takes one PATTERN"),
        (("find", "--since", "-2d", "web01:/"), "--since needs --in"),
        (("find",), "find takes POINT:/PATH"),
        (("find", "web01:/", "*", "x"), "find takes POINT:/PATH"),
        (("find", "--in", "web01", "--since", "soon"), "invalid --since"),
    ],
)
def test_a_wrong_argument_is_one_line(run: Run, words: tuple[str, ...], message: str) -> None:
    done = run("files", *words)

    assert done.code == 2
    assert message in done.err
