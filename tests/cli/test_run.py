"""`cbtfs run`: the steps of a job, their defaults, and when a job stops."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from cbtfs.cli.main import app, main
from cbtfs.config import DEFAULT_KEYS
from tests.cli.run_cbtfs import CommandResult, Run
from tests.make_points import BLOCK, SIGNALS, add_point, new_repository


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "disk.raw").write_bytes(b"\1" * BLOCK)


@pytest.fixture
def job(tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Write a file with a job `j` and run the job with more arguments."""

    def run(text: str, *arguments: str | Path) -> CommandResult:
        file = tmp_path / "cbtfs.toml"
        file.write_text(f"repo = '{repository}'\n{text}")
        file.chmod(0o600)
        capsys.readouterr()
        code = main(["--config", str(file), "run", "j", *map(str, arguments)])
        return CommandResult(code, *capsys.readouterr())

    return run


STEPS = """
[job.j]
steps = ["ingest image --vm v --disk d disk.raw", "list", "forget --keep-last 1 --prune"]
"""


def test_the_steps_run_in_order_on_the_repository_of_the_file(job: Run, run: Run) -> None:
    job(STEPS)
    done = job(STEPS)

    assert done.code == 0
    assert done.err.splitlines()[0] == (
        "cbtfs: job j, step 1 of 3: ingest image --vm v --disk d disk.raw"
    )
    assert len(run("list", "--json").document["points"]) == 1


def test_with_json_the_documents_of_the_steps_are_one_document(job: Run) -> None:
    done = job(STEPS, "--json")

    assert done.document["not_run"] == 0
    ingest, listed, forgotten = done.document["steps"]
    assert ingest["command"][:2] == ["ingest", "image"]
    assert [step["exit"] for step in done.document["steps"]] == [0, 0, 0]
    assert listed["document"]["points"][0]["id"] == ingest["document"]["point"]
    assert forgotten["document"]["forgotten"] == []


def test_an_unknown_command_is_refused_before_the_first_step(job: Run, run: Run) -> None:
    steps = 'steps = ["ingest image --vm v --disk d disk.raw", "forgett --keep-last 9"]'

    done = job(f"[job.j]\n{steps}")

    assert done.code == 2
    assert "'forgett' is no command of cbtfs" in done.err
    assert run("list", "--json").document["points"] == []


def test_a_step_that_fails_stops_the_job_with_its_code(job: Run, run: Run) -> None:
    steps = 'steps = ["list", "ingest image --vm v --disk d none.raw", "prune"]'

    done = job(f"[job.j]\n{steps}", "--json")

    assert (done.code, done.document["not_run"]) == (30, 1)
    failed = done.document["steps"][1]
    assert (failed["exit"], failed["document"]["error"]["code"]) == (30, 30)
    assert "job j stopped at step 2: exit code 30, 1 steps not run" in done.err
    assert job(f"[job.j]\n{steps}").code == 30


def test_partial_success_does_not_stop_a_job_and_is_its_code(
    job: Run, repository: Path, tmp_path: Path
) -> None:
    add_point(repository, {"a": b"\1" * BLOCK, "b": b"\2" * BLOCK}, vm="v")
    (tmp_path / "out" / "v" / "2026-01-01T00-00-01Z").mkdir(parents=True)
    (tmp_path / "out" / "v" / "2026-01-01T00-00-01Z" / "a.raw").touch()

    done = job("[job.j]\nsteps = ['restore --all out v', 'list']", "--json")

    assert done.code == 3
    assert [step["exit"] for step in done.document["steps"]] == [3, 0]


def test_a_job_that_does_not_exist_is_refused_with_the_names_of_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "j"]) == 2
    assert "there is no configuration file" in capsys.readouterr().err
    folder = tmp_path / ".config" / "cbtfs"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("[job.nightly]\nsteps = ['prune']")
    (folder / "config.toml").chmod(0o600)

    assert main(["run", "nigthly"]) == 2
    assert "has nightly" in capsys.readouterr().err


def test_the_repository_of_a_job_wins_over_the_environment_and_loses_to_the_command_line(
    tmp_path: Path,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "cbtfs.toml"
    file.write_text("repo = '/none'\n[job.j]\nrepo = 'of-job'\nsteps = ['list']")
    file.chmod(0o600)
    new_repository(tmp_path / "of-job")
    monkeypatch.delenv("CBTFS_REPO", raising=False)

    assert main(["--config", str(file), "run", "j"]) == 0
    assert "ignored" not in capsys.readouterr().err
    monkeypatch.setenv("CBTFS_REPO", "/none")
    assert main(["--config", str(file), "run", "j"]) == 0
    names = f"job j names the repository {tmp_path / 'of-job'}: CBTFS_REPO is ignored"
    assert names in capsys.readouterr().err
    assert main(["--config", str(file), "--repo", str(repository), "run", "j"]) == 0
    assert main(["--config", str(file), "--repo", "/none", "run", "j"]) == 10
    capsys.readouterr()


def test_defaults_apply_to_each_command_with_the_option(job: Run) -> None:
    """An invalid value shows which commands have received it."""
    wrong = "[defaults]\nlock-wait = 'soon'\n[job.j]\nsteps = ['list', '{}']"

    for step in ("prune", "ingest image --vm v --disk d disk.raw", "forget x"):
        done = job(wrong.format(step), "--json")

        assert [result["exit"] for result in done.document["steps"]] == [0, 2]
        assert "'soon'" in done.err
        assert done.err.count("cbtfs.toml") == 1
        assert "; the value is from [defaults] of " in done.err
        assert job(wrong.format(f"{step} --lock-wait 1s")).code != 2 or step == "forget x"


def test_a_job_wins_over_defaults_and_an_option_over_both(job: Run) -> None:
    text = "[defaults]\naudit = 'no'\n[job.j]\naudit = '1%'\nsteps = ['ingest image {}']"
    image = "--vm v --disk d disk.raw"

    assert job(text.format(image)).code == 0
    on_command_line = job(text.format(f"--audit wrong {image}"))
    assert on_command_line.code == 2
    assert "the value is from" not in on_command_line.err


@pytest.mark.parametrize(
    ("value", "step"),
    [
        ("time-zone = 'Mars'", "list"),
        ("level = 99", "ingest image --vm v --disk d disk.raw"),
        ("audit = 'no'", "ingest image --vm v --disk d disk.raw"),
        ("jobs = 0", "restore --all out v"),
    ],
)
def test_an_invalid_value_is_reported_with_its_table_and_file(
    job: Run, tmp_path: Path, value: str, step: str
) -> None:
    done = job(f"[job.j]\n{value}\nsteps = ['{step}']", "--json")

    assert done.code == 2
    where = f"; the value is from [job.j] of {tmp_path / 'cbtfs.toml'}"
    assert where in done.err
    assert where in done.document["steps"][0]["document"]["error"]["message"]


def test_a_step_with_a_double_dash_prints_its_document(job: Run, repository: Path) -> None:
    add_point(repository, {"d": b"\1" * BLOCK}, vm="v")

    (step,) = job("[job.j]\nsteps = ['show -- v']", "--json").document["steps"]

    assert step["document"]["label"] == "v"


def test_a_default_of_a_time_zone_reaches_names(job: Run, repository: Path) -> None:
    add_point(repository, {"d": b"\1" * BLOCK}, vm="v")  # 2026-01-01T00:00Z
    text = "[job.j]\ntime-zone = '{}'\nsteps = ['show v@2026-01-01T00:30']"

    assert job(text.format("UTC")).code == 0
    assert job(text.format("Europe/Berlin")).code == 13


def _parameters(command: Any) -> set[str]:
    names = {param.name for param in command.params}
    for child in getattr(command, "commands", {}).values():
        names |= _parameters(child)
    return names


def test_each_key_of_defaults_is_an_option() -> None:
    names = _parameters(typer.main.get_command(app))

    assert {key.replace("-", "_") for key in DEFAULT_KEYS} <= names


def test_help_and_version_work_with_an_invalid_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text("nonsense = 1")
    monkeypatch.setenv("CBTFS_CONFIG", str(tmp_path / "bad.toml"))

    assert main(["--version"]) == 0
    assert main(["list", "--help"]) == 0
    assert main(["--repo", "/none", "list"]) == 2
    assert "unknown key 'nonsense'" in capsys.readouterr().err


def test_an_interrupt_ends_the_step_and_the_job(tmp_path: Path, repository: Path) -> None:
    """The step waits for the writer's lock, which this process holds."""
    from cbtfs.store.repository import writing

    (tmp_path / "cbtfs.toml").write_text(
        f"repo = '{repository}'\n[job.j]\nsteps = ['prune --lock-wait 1h', 'list']"
    )
    (tmp_path / "cbtfs.toml").chmod(0o600)
    command = [*SIGNALS, sys.executable, "-m", "cbtfs", "--config=cbtfs.toml", "run", "j"]
    with (
        writing(repository),
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child,
    ):
        assert child.stderr is not None
        assert "step 1 of 2" in child.stderr.readline()
        assert "wait" in child.stderr.readline()
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate()

    assert child.returncode == 143
    assert "job j stopped at step 1: exit code 143, 1 steps not run" in err
