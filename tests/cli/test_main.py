"""Every command turns an error into one line and an exit code."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cbtfs import __version__
from cbtfs.cli import main as cli
from cbtfs.cli.lazy_commands import MODULES, load_commands
from cbtfs.core.sealed import seal, unseal
from cbtfs.errors import CbtfsError, ExitCode
from cbtfs.store.repository import writing
from cbtfs.store.settings import SETTINGS
from tests.cli.command_tree import command_tree
from tests.cli.run_cbtfs import Run, process
from tests.make_points import BLOCK, SIGNALS, add_point

WAITING = """
import signal, sys
from cbtfs.cli.main import app, run

@app.command()
def wait():
    try:
        print("ready", flush=True)
        signal.pause()
    finally:
        print("closed", flush=True)

sys.argv = ["cbtfs", "wait"]
run()
"""


def is_one_line(text: str) -> bool:
    return text.startswith("cbtfs: ") and text.endswith("\n") and text.count("\n") == 1


@pytest.mark.parametrize("module", MODULES)
def test_commands_are_where_they_are_looked_for(module: str) -> None:
    assert tuple(load_commands(module)) == MODULES[module]


def test_no_repository_named_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CBTFS_REPO", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    assert cli.main(["list"]) == 2
    assert is_one_line(capsys.readouterr().err)


def test_the_environment_replaces_the_option_repo(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setenv("CBTFS_REPO", str(repository))

    assert cli.main(["list"]) == 0


def test_the_option_wins_over_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CBTFS_REPO", "/nowhere")

    assert run("list").code == 0


def test_a_configuration_file_replaces_the_option_repo(
    monkeypatch: pytest.MonkeyPatch, repository: Path, tmp_path: Path
) -> None:
    monkeypatch.delenv("CBTFS_REPO", raising=False)
    file = tmp_path / "config.toml"
    file.write_text(f'repo = "{repository.name}"\n')

    assert cli.main(["--config", str(file), "list"]) == 0


def test_a_folder_that_is_no_repository_is_10(tmp_path: Path) -> None:
    done = process("--repo", tmp_path, "list")

    assert done.code == 10
    assert done.out == ""
    assert is_one_line(done.err)


def test_a_second_writer_is_11_and_names_the_first(
    run: Run, repository: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(BLOCK))

    with writing(repository):
        done = run("ingest", "image", "--vm", "v", "--disk", "d", image)

    assert done.code == 11
    assert is_one_line(done.err)
    assert f"process {os.getpid()}" in done.err


def test_a_feature_of_tomorrow_is_12(run: Run, repository: Path) -> None:
    settings = repository / SETTINGS
    document = unseal(settings.read_bytes())
    document["features"]["required"] = ["teleport"]
    settings.write_bytes(seal(document))

    done = run("list")

    assert done.code == 12
    assert is_one_line(done.err)
    assert "teleport" in done.err


@pytest.mark.parametrize("spec", ["vm@latest", "vm@2026-01-01T00-00-01Z", "abc", "", "@"])
def test_an_unknown_point_is_13(run: Run, spec: str) -> None:
    done = run("show", spec)

    assert done.code == 13
    assert is_one_line(done.err)


def test_damaged_settings_are_21(run: Run, repository: Path) -> None:
    settings = repository / SETTINGS
    settings.write_bytes(settings.read_bytes().replace(b"64", b"65").replace(b"a", b"b"))

    done = run("list")

    assert done.code == 21
    assert is_one_line(done.err)


@pytest.mark.parametrize(
    "arguments", [["lst"], ["list", "--nonsense"], ["show"], ["init", "--level", "x"], ["ingest"]]
)
def test_a_wrong_command_line_is_2_in_one_line(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)

    assert done.code == 2
    assert done.out == ""
    assert is_one_line(done.err)


def test_a_bug_is_70_with_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr("cbtfs.store.repository.load_settings", fail)

    done = run("list")

    assert done.code == 70
    assert "Traceback" in done.err
    assert "no such luck" in done.err


def test_names_in_an_error_cannot_move_the_cursor(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise CbtfsError("VM 'a\x1b[2J\u202eb\n' is odd")

    monkeypatch.setattr("cbtfs.store.repository.load_settings", fail)

    done = run("list")

    assert done.code == 1
    assert done.err == "cbtfs: VM 'a\\x1b[2J\\u202eb\\n' is odd\n"


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_a_signal_closes_what_is_open(signum: signal.Signals, code: int) -> None:
    with subprocess.Popen(
        [*SIGNALS, sys.executable, "-c", WAITING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "ready\n"
        waiting.send_signal(signum)
        out, err = waiting.communicate()

    assert waiting.returncode == code
    assert out == "closed\n"
    assert "Traceback" not in err


def test_signals_that_were_ignored_stay_so_and_sigterm_ends() -> None:
    """Under nohup, and in the background of a shell without job control."""
    command = ["env", "--ignore-signal=INT,HUP", sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "ready\n"
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            waiting.send_signal(signum)
        out, _ = waiting.communicate()

    assert waiting.returncode == 143
    assert out == "closed\n"


def test_mount_from_fstab_leaves_an_ignored_sigint_alone() -> None:
    script = (
        "import signal; from cbtfs.cli.commands import mount_helper\n"
        "mount_helper.main = lambda _: print(signal.getsignal(signal.SIGINT).name)\n"
        "import sys; sys.argv = ['mount.cbtfs', '/r', '/m']; mount_helper.run()"
    )
    command = ["env", "--ignore-signal=INT", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "SIG_IGN\n"


def test_a_closed_pipe_is_no_noise(repository: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cbtfs", "--repo", str(repository), "list"]
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)

    assert done.returncode == 1
    assert done.stderr == ""


def test_a_full_output_is_an_error(repository: Path) -> None:
    command = [sys.executable, "-m", "cbtfs", "--repo", str(repository), "list"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    assert is_one_line(done.stderr)


def test_the_tree_has_the_commands_of_all_modules() -> None:
    tree = command_tree()

    assert {name for names in MODULES.values() for name in names} <= tree.keys()
    assert {"ingest image", "ingest vsphere"} <= tree.keys()


@pytest.mark.parametrize("command", command_tree())
def test_every_command_shows_an_example(run: Run, command: str) -> None:
    done = run(*command.split(), "--help")

    assert done.code == 0
    example = done.out.split("Example:")[1].split()
    assert example[0] == "cbtfs"
    assert f" {command} " in f"{' '.join(example)} "


def test_help_needs_no_repository(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config", "/nowhere", "list", "--help"]) == 0
    assert "Example:" in capsys.readouterr().out


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cbtfs {__version__}\n"


def test_a_shell_can_complete_commands() -> None:
    environment = {
        **os.environ,
        "_CBTFS_COMPLETE": "complete_bash",
        "COMP_WORDS": "cbtfs ex",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "cbtfs"], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["extents", "export"]


def test_listing_loads_nothing_that_it_does_not_need(repository: Path) -> None:
    """Each of these modules takes a tenth of the time limit of the command."""
    add_point(repository, {"d": bytes(BLOCK)})
    code = (
        "import json, sys; from cbtfs.cli.main import main; "
        f"main(['--repo', {str(repository)!r}, 'list']); "
        "sys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(json.loads(done.stderr))

    assert not loaded & {"trio", "pyfuse3", "pydantic", "rich", "pyVmomi", "ssl", "asyncio"}


def test_the_help_lists_every_exit_code() -> None:
    shown = " ".join(CliRunner().invoke(cli.app, ["--help"]).output.split())

    assert all(f"{code:d} {code.summary}" in shown for code in ExitCode)


def test_the_documentation_lists_every_exit_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    section = text.partition("## Exit codes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([0-9, ]+) \|", section, re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}

    assert documented == set(ExitCode)


def test_every_error_has_an_exit_code_of_the_enumeration() -> None:
    classes = [CbtfsError]
    for kind in classes:
        classes += kind.__subclasses__()

    assert all(isinstance(kind.exit_code, ExitCode) for kind in classes)
