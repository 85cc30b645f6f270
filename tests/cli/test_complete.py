"""Completion of names in the shell."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cbtfs.cli.complete import answer
from tests.naming import Names, vm_of

Complete = Callable[..., list[str] | None]


@pytest.fixture
def names(repository: Path) -> Names:
    return Names(repository)


@pytest.fixture
def complete(repository: Path, tmp_path: Path) -> Complete:
    """Return a function that completes a command line as fish does."""

    def run(line: str, repo: Path | str = repository) -> list[str] | None:
        offered = answer(
            {
                "_CBTFS_COMPLETE": "complete_fish",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                "_TYPER_COMPLETE_ARGS": line,
                "CBTFS_REPO": str(repo),
                "HOME": str(tmp_path),
            }
        )
        return None if offered is None else offered.splitlines()

    return run


@pytest.fixture
def filled(names: Names) -> Names:
    names.add("2020-01-01T00:00:00Z", vm_of("a", "web01"))
    names.add("2020-01-02T00:00:00Z", vm_of("a", "web01"))
    names.add("2020-01-03T00:00:00Z", vm_of("b", "web02"))
    names.add("2020-01-03T00:00:00Z", vm_of("c", "db"))
    return names


TIMES = ["web01@2020-01-01T00-00-00Z", "web01@2020-01-02T00-00-00Z"]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("cbtfs list ", ["db", "web01", "web02"]),
        ("cbtfs list --json w", ["web01", "web02"]),
        ("cbtfs list d", ["db"]),
        ("cbtfs show d", ["db", "db@"]),
        ("cbtfs show web01@", [*TIMES, "web01@good", "web01@latest", "web01@proven"]),
        ("cbtfs show --time-zone UTC web01@2020-01-02", TIMES[1:]),
        ("cbtfs forget web02@x web01@", TIMES),
        ("cbtfs diff web01@latest web01@l", ["web01@latest"]),
        ("cbtfs restore web01@latest ", ["disk"]),
        ("cbtfs extents web01 d", ["disk"]),
        ("cbtfs diff db db ", ["disk"]),
        ("cbtfs restore nobody ", []),
        ("cbtfs show mail", []),
    ],
)
def test_names_are_offered_where_an_argument_takes_them(
    complete: Complete, line: str, offered: list[str]
) -> None:
    assert complete(line) == offered


NO_NAMES = ("cbtfs sho", "cbtfs show --js", "cbtfs --repo ", "cbtfs list web01 ", "cbtfs mount x")


@pytest.mark.parametrize(
    "line", ["cbtfs ", *NO_NAMES, "cbtfs restore a b ", "cbtfs show --time-zone E", "cbtfs show 'a"]
)
def test_arguments_that_are_not_names_are_completed_by_the_library(
    complete: Complete, line: str
) -> None:
    assert complete(line) is None


def test_it_is_silent_where_the_repository_cannot_be_opened(
    complete: Complete, filled: Names, tmp_path: Path
) -> None:
    assert complete("cbtfs list ", tmp_path / "nowhere") == []
    assert complete("cbtfs list ", "") == []
    settings = filled.path / "repository.json"
    settings.write_bytes(settings.read_bytes().replace(b'"version":1', b'"version":9'))
    assert complete("cbtfs list ") == []

    shutil.rmtree(filled.path / "catalog")
    environment = os.environ | {"_CBTFS_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    environment |= {"COMP_WORDS": "cbtfs\nlist\n", "CBTFS_REPO": str(filled.path)}
    done = subprocess.run(
        [sys.executable, "-m", "cbtfs"], env=environment, check=True, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")
    assert not (filled.path / "catalog").exists()


def test_a_repository_on_the_command_line_is_asked(complete: Complete, filled: Names) -> None:
    path = filled.path
    for option in (f"--repo {path}", f"--repo={path}", f"-r {path}", f"-r{path}"):
        assert complete(f"cbtfs {option} -q list d", "/nowhere") == ["db"]
        assert complete(f"cbtfs list {option} -v d", "/nowhere") == ["db"]


HOSTILE = [
    "a b",
    "a$(touch x)",
    "a`id`",
    "a*",
    "a'q",
    'a"q',
    "a;b",
    "a\nb",
    "a\x1b[2J",
    "a\\b",
    "a:b",
]


def _bash(repository: Path, *words: str) -> list[str]:
    """Return the completions of bash, with the script of --install-completion."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
    set -- {quoted}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
    complete() {{
        local IFS=$'\\n'
        COMPREPLY=( $( env COMP_WORDS="${{COMP_WORDS[*]}}" COMP_CWORD=$COMP_CWORD \\
            _CBTFS_COMPLETE=complete_bash {sys.executable} -m cbtfs ) )
    }}
    complete
    for word in "${{COMPREPLY[@]}}"; do eval "printf '%s\\0' $word"; done
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"CBTFS_REPO": str(repository)},
        check=True,
        capture_output=True,
        text=True,
        cwd=repository,
    )
    assert done.stderr == ""
    return done.stdout.split("\0")[:-1]


def test_bash_reads_back_the_names_that_it_is_offered(names: Names) -> None:
    for number, name in enumerate(HOSTILE):
        names.add("2020-01-01T00:00:00Z", vm_of(f"{number:x}", name))
    names.add("2020-01-01T00:00:00Z", vm_of("f", "web01"))

    offered = _bash(names.path, "cbtfs", "list", "a")
    assert sorted(offered) == sorted(
        [name for name in HOSTILE if name.isprintable()] + ["a%0Ab", "a%1B[2J"]
    )
    assert not (names.path / "x").exists()
    assert _bash(names.path, "cbtfs", "show", "web01", "@", "la") == ["latest"]
    assert "2020-01-01T00-00-00Z" in _bash(names.path, "cbtfs", "show", "web01", "@")


def test_zsh_is_offered_nothing_that_it_could_evaluate(names: Names) -> None:
    for number, name in enumerate([*HOSTILE, "a-fine.one"]):
        names.add("2020-01-01T00:00:00Z", vm_of(f"{number:x}", name))
    environment = {"_CBTFS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "cbtfs list a"}

    offered = answer(environment | {"CBTFS_REPO": str(names.path)})

    assert offered == """_arguments '*: :(("a%0Ab" "a-fine.one" "a\\\\:b"))'"""
