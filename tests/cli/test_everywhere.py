"""Options of every command: in front of it and behind it, at each level."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from cbtfs.cli.main import app, main
from cbtfs.cli.options.context import Options, bucket_variables, options_of
from cbtfs.cli.report.display import Display, ProgressMode
from cbtfs.config import BucketOptions, load_config
from tests.cli.run_cbtfs import Run
from tests.make_points import add_point

SPELLINGS: dict[tuple[str, ...], Options] = {
    ("--repo", "/r"): Options(repo=Path("/r")),
    ("--repo=/r",): Options(repo=Path("/r")),
    ("-r", "/r"): Options(repo=Path("/r")),
    ("-r/r",): Options(repo=Path("/r")),
    ("--config", "/c"): Options(config=Path("/c")),
    ("--key-file", "/k"): Options(key_files=(Path("/k"),)),
    ("--passphrase-file=/p",): Options(passphrase_files=(Path("/p"),)),
    ("--tier-size", "2G"): Options(tier_size="2G"),
    ("--json",): Options(is_json=True),
    ("-q",): Options(display=Display(is_quiet=True)),
    ("--quiet",): Options(display=Display(is_quiet=True)),
    ("-v",): Options(display=Display(verbosity=1)),
    ("-vv",): Options(display=Display(verbosity=2)),
    ("--verbose",): Options(display=Display(verbosity=1)),
    ("--progress", "json"): Options(display=Display(progress=ProgressMode.JSON)),
    ("-qr/r", "--json"): Options(Path("/r"), is_json=True, display=Display(is_quiet=True)),
}


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    children = getattr(command, "commands", {})
    if not children:
        yield path
    for name, child in children.items():
        yield from _leaves(child, (*path, name))


ROOT: Any = get_command(app)
COMMANDS = list(_leaves(ROOT))


def _parse(words: list[str]) -> typer.Context:
    """Parse *words* level by level, as the program does; required arguments may be absent."""
    command, context, name = ROOT, None, "cbtfs"
    while True:
        context = command.make_context(name, words, parent=context, resilient_parsing=True)
        if not getattr(command, "commands", {}):
            return context  # type: ignore[no-any-return]
        words = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, words)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_option_works_in_each_position_of_each_command(path: tuple[str, ...]) -> None:
    for spelling, expected in SPELLINGS.items():
        for position in range(len(path) + 1):
            words = [*path[:position], *spelling, *path[position:]]

            context = _parse(words)

            assert options_of(context) == expected, words
            assert context.params["json"] is expected.is_json, words


def test_commands_of_groups_are_among_them() -> None:
    assert {("list",), ("ingest", "vsphere"), ("cbt", "status")} <= set(COMMANDS)


def test_the_last_repository_counts_and_verbosity_adds_up() -> None:
    options = options_of(_parse(["-r", "/a", "-v", "ingest", "-r", "/b", "image", "-v"]))

    assert options.repo == Path("/b")
    assert options.display.verbosity == 2


@pytest.mark.parametrize("words", [["-q", "list", "-v"], ["list", "-qv"], ["-v", "list", "-q"]])
def test_quiet_and_verbose_exclude_each_other(run: Run, words: list[str]) -> None:
    done = run(*words)

    assert done.code == 2
    assert "mutually exclusive" in done.err


def test_an_unknown_form_of_progress_is_a_usage_error(run: Run) -> None:
    done = run("list", "--progress", "bars")

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "auto, json, none" in done.err


def test_json_in_front_of_the_command_prints_the_document(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--json", "list", "-r", str(repository)]) == 0

    assert capsys.readouterr().out == '{"points": []}\n'


def test_a_quiet_command_prints_no_report_but_requested_data(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(b"content" * 1000)

    quiet = [
        run("ingest", "image", "-q", "--vm=vm", "--disk=root", image),
        run("-q", "restore", "vm@latest", "root", tmp_path / "back.raw"),
        run("-q", "tag", "vm@latest", "release"),
        run("check", "-q"),
        run("prune", "-q"),
        run("-q", "diff", "vm@latest", "vm@latest", "root"),
        run("-q", "forget", run("list", "--json").document["points"][0]["id"]),
    ]
    add_point(repository, {"root": b"\1" * 4096})

    assert [(done.code, done.out, done.err) for done in quiet] == [(0, "", "")] * len(quiet)
    assert (tmp_path / "back.raw").read_bytes() == image.read_bytes()
    assert "vm" in run("-q", "list").out
    assert run("-q", "tag", "vm@latest", "--json").document["tags"] == []
    assert "would be" in run("-q", "prune", "--dry-run").out


@pytest.mark.parametrize(
    ("word", "level"), [("-q", logging.NOTSET), ("-v", logging.INFO), ("-vv", logging.DEBUG)]
)
def test_verbosity_is_the_level_of_the_log_of_one_command(run: Run, word: str, level: int) -> None:
    log = logging.getLogger("cbtfs")
    run("list", word)
    assert log.level == level

    run("list")

    assert log.level == logging.NOTSET


def test_verbose_names_the_repository_and_its_origin(
    repository: Path, run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFS_REPO", str(repository))
    run("list")
    assert caplog.messages == []

    run("list", "-v")
    main(["list", "-v"])

    assert caplog.messages == [
        f"repository {repository}, from --repo",
        f"repository {repository}, from CBTFS_REPO",
    ]


BUCKET = BucketOptions("http://file:1", "eu-1", "3G")


@pytest.mark.parametrize(
    ("option", "environment", "added"),
    [
        (
            None,
            {"AWS_REGION": ""},
            {
                "AWS_ENDPOINT_URL_S3": "http://file:1",
                "AWS_REGION": "eu-1",
                "CBTFS_TIER_SIZE": "3G",
            },
        ),
        (
            None,
            {"AWS_ENDPOINT_URL": "http://x:1", "AWS_DEFAULT_REGION": "x", "CBTFS_TIER_SIZE": "1G"},
            {},
        ),
        ("2G", {"AWS_ENDPOINT_URL_S3": "http://x:1", "CBTFS_TIER_SIZE": "1G"}, None),
    ],
)
def test_an_option_wins_over_a_variable_and_that_over_the_file(
    option: str | None, environment: dict[str, str], added: dict[str, str] | None
) -> None:
    expected = {"AWS_REGION": "eu-1", "CBTFS_TIER_SIZE": "2G"} if added is None else added

    assert bucket_variables(option, BUCKET, environment) == expected


def test_an_invalid_tier_size_is_refused(run: Run) -> None:
    done = run("list", "--tier-size", "5x")

    assert done.code == 2
    assert done.err == "cbtfs: invalid --tier-size '5x': use e.g. 500M or 50G\n"


def test_the_table_of_buckets_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[bucket]\nendpoint = "http://file:1"\nregion = "eu-1"\ntier-size = "3G"\n')
    file.chmod(0o600)

    assert load_config(file, {}).bucket == BUCKET
