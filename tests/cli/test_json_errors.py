"""With --json, an error of any command is one document on standard output."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command_tree import command_tree
from tests.cli.run_cbtfs import Run, process
from tests.make_points import BLOCK, add_point

SOME_DISK = {"disk": b"\1" * BLOCK}


COMMANDS = [
    words
    for words, command in command_tree().items()
    if not hasattr(command, "commands") and any("--json" in param.opts for param in command.params)
]
"""Commands that take --json, without the groups."""


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_a_document_of_every_command(run: Run, command: str) -> None:
    done = run(*command.split(), "--json", "--no-such-option")

    assert done.code == 2
    assert done.document["error"]["code"] == 2
    assert done.err == f"cbtfs: {done.document['error']['message']}\n"


def test_the_commands_with_json_are_those_that_print_documents() -> None:
    assert {"list", "restore", "forget", "unforget", "ingest vsphere", "doctor"} <= {*COMMANDS}


def test_no_command_is_a_document(run: Run) -> None:
    assert run("--json").document["error"]["code"] == 2


def test_a_missing_repository_is_a_document(tmp_path: Path) -> None:
    done = process(f"--repo={tmp_path}", "list", "--json")

    assert done.code == 10
    assert set(done.document["error"]) == {"code", "message", "candidates"}


@pytest.mark.parametrize(
    ("command", "code", "candidates"),
    [
        (["show", "web1"], 13, ["web01"]),
        (["list", "web1"], 13, ["web01"]),
        (["restore", "web01", "dsk", "x"], 13, ["disk"]),
        (["restore", "web01", "zzzz", "x"], 13, ["disk"]),
        (["show", "web01@2001-01-01"], 13, ["web01@2026-01-01T00-00-01Z"]),
        (["show", "web01@latest~9"], 13, ["web01@2026-01-01T00-00-01Z"]),
        (["forget", "web01@latest"], 2, ["web01@2026-01-01T00-00-02Z"]),
        (["lst"], 2, ["list"]),
        (["ingest", "vspher"], 2, ["vsphere"]),
        (["cbt", "enabel"], 2, ["enable"]),
        (["nonsense"], 2, []),
        (["list", "--jsn"], 2, ["--json", "--since"]),
    ],
)
def test_candidates_are_the_names_that_may_be_meant(
    repository: Path, run: Run, command: list[str], code: int, candidates: list[str]
) -> None:
    add_point(repository, SOME_DISK, vm="web01")
    add_point(repository, SOME_DISK, vm="web01")

    done = run(*command, "--json")

    assert (done.code, done.document["error"]["candidates"]) == (code, candidates)


def test_an_ambiguous_id_has_all_ids_as_candidates(repository: Path, run: Run) -> None:
    ids: list[str] = []
    while len({name[0] for name in ids}) == len(ids):
        ids.append(add_point(repository, SOME_DISK).point)
    same = sorted(name for name in ids if name[0] == ids[-1][0])

    done = run("show", ids[-1][0], "--json")

    assert sorted(done.document["error"]["candidates"]) == same


def test_without_json_standard_output_is_empty(run: Run) -> None:
    done = run("show", "nobody", "--", "--json")

    assert (done.code, done.out) == (2, "")
    assert run("show", "nobody").out == ""


def test_an_error_after_the_document_adds_no_second_one(repository: Path, run: Run) -> None:
    (repository / "packs").rename(repository / "elsewhere")
    (repository / "packs").mkdir()

    done = run("check", "--json")

    assert done.code == 21
    assert "error" not in done.document


def test_a_bug_is_a_document_of_code_70(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbtfs.store.repository.reading", lambda _: 1 / 0)

    assert run("list", "--json").document["error"]["code"] == 70


def test_an_interrupt_is_a_document(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cbtfs.store.repository.reading", interrupt)

    done = run("list", "--json")

    assert (done.code, done.err) == (130, "cbtfs: interrupted\n")
    assert done.document["error"]["code"] == 130


def test_a_full_standard_output_keeps_the_exit_code_of_the_error(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cbtfs", f"--repo={tmp_path}", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 10
    assert "no repository" in done.stderr
    assert "cannot write to standard output" in done.stderr


def test_a_message_with_control_characters_stays_ascii(run: Run) -> None:
    done = run("show", "a\x1b[31m\u202e", "--json")

    assert done.out.isascii()
    assert "\x1b" not in done.out
    assert json.loads(done.out)["error"]["code"] == 13
