"""The configuration of file and environment; unknown members are refused."""

import os
from pathlib import Path

import pytest

from cbtfs.config import Config, Job, Server, load_config
from cbtfs.errors import UsageError


def test_without_a_file_nothing_is_set(tmp_path: Path) -> None:
    assert load_config(None, {"HOME": str(tmp_path)}) == Config()


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HOME": "{}"}, ".config/cbtfs/config.toml"),
        ({"HOME": "/nowhere", "XDG_CONFIG_HOME": "{}"}, "cbtfs/config.toml"),
        ({"HOME": "/nowhere", "CBTFS_CONFIG": "{}/mine.toml"}, "mine.toml"),
    ],
)
def test_the_file_is_found(tmp_path: Path, environment: dict[str, str], place: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('repo = "/srv/backup"')

    config = load_config(None, {name: text.format(tmp_path) for name, text in environment.items()})

    assert (config.repo, config.file) == (Path("/srv/backup"), file)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('repo = "/srv/backup"')

    assert load_config(file, {"CBTFS_REPO": "/other"}).repo == Path("/other")
    assert load_config(file, {"CBTFS_REPO": ""}).repo == Path("/srv/backup")


def test_a_relative_repository_is_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('repo = "backup"')

    assert load_config(file, {}).repo == tmp_path / "backup"


@pytest.mark.parametrize(
    "text", ["repos = '/srv'", "repo = 1", "repo = ''", "repo", "repo = '~nobody-here/x'", "\x00"]
)
def test_invalid_configurations_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)

    with pytest.raises(UsageError):
        load_config(file, {})


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        load_config(tmp_path / "none.toml", {})


FILE = """
[server.vc1]
address = "vc1.example"
user = "backup"
password-file = "vc1.password"
thumbprint = "aa:bb"

[defaults]
repo = "backup"
lock-wait = "1h"
jobs = 4
vddk-libdir = "/opt/vddk"

[job.nightly]
steps = ["ingest vsphere 'a b' c\\\\ d", "prune"]
server = "vc1"
repo = "other"
"""


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "config.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_servers_defaults_and_jobs_are_read(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, FILE), {})

    assert config.repo == tmp_path / "backup"
    assert config.servers == {
        "vc1": Server("vc1.example", "backup", tmp_path / "vc1.password", None, "aa:bb")
    }
    assert config.defaults == {"lock_wait": "1h", "jobs": "4", "vddk_libdir": "/opt/vddk"}
    steps = (("ingest", "vsphere", "a b", "c d"), ("prune",))
    assert config.jobs == {"nightly": Job(steps, tmp_path / "other", {"server": "vc1"})}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server.a]\naddress='x'\nusr='y'", "unknown key 'usr' in [server.a]"),
        ("[server.a]\nuser='y'", "server.a: address is missing"),
        ("[server.a]\naddress=1", "server.a.address: it is not a string"),
        ("[server.a]\naddress='x'\npassword='y'", "use password-file"),
        ("[server.a]\naddress='x'\nca-file='y'\nthumbprint='z'", "mutually exclusive"),
        ("server = 'vc1'", "server: it is not a table"),
        ("[server]\na = 1", "server.a: it is not a table"),
        ("[servers.a]\naddress='x'", "unknown key 'servers'"),
        ("[defaults]\nforce = true", "unknown key 'force' in [defaults]"),
        ("[defaults]\njobs = '4'", "defaults.jobs: it is not an integer"),
        ("[defaults]\njobs = true", "defaults.jobs: it is not an integer"),
        (
            "[defaults]\nnfc-require-sha256 = 'yes'",
            "defaults.nfc-require-sha256: it is neither true nor false",
        ),
        ("[defaults]\ntransport = 4", "defaults.transport: it is not a string"),
        ("repo = 'a'\n[defaults]\nrepo = 'b'", "repo: it is given twice"),
        ("[job.a]\nrepo = 'x'", "job.a.steps: use an array"),
        ("[job.a]\nsteps = []", "job.a.steps: use an array"),
        ("[job.a]\nsteps = ['']", "job.a.steps: it is not a string"),
        ("[job.a]\nsteps = [' ']", "does not start with a command"),
        ("[job.a]\nsteps = ['--repo x prune']", "does not start with a command"),
        ('[job.a]\nsteps = ["prune \'x"]', "cannot split"),
        ("[job.a]\nsteps = ['run a']", "'run' cannot be a step"),
        ("[job.a]\nstep = ['prune']", "unknown key 'step' in [job.a]"),
        ("[keys]\npassphrase = 'x'", "use passphrase-file"),
        ("[keys]\nkey-files = 'x'", "unknown key 'key-files' in [keys]"),
        ("[keys]\nkey-file = ['x', 1]", "keys.key-file: it is not a path"),
        ("[keys]\ncommand = ['a', 'b']", "keys.command: it is not a string"),
        ("[bucket]\nsecret-key = 'x'", "unknown key 'secret-key' in [bucket]"),
        ("[bucket]\nendpoint = 1", "bucket.endpoint: it is not a string"),
        ("[bucket]\ntier-size = '5x'", "bucket.tier-size: invalid size '5x'"),
        ("keys = 'x'", "keys: it is not a table"),
        ("a = " + "[" * 100_000, "cannot read"),
        ("#" * (1 << 20) + "#", "larger than 1 MiB"),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str, words: str) -> None:
    file = written(tmp_path, text)

    with pytest.raises(UsageError) as caught:
        load_config(file, {})
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_names_no_secrets_and_commands(
    tmp_path: Path, mode: int
) -> None:
    file = written(tmp_path, FILE, mode)
    with pytest.raises(UsageError, match="chmod go-w"):
        load_config(file, {})

    file.write_text("repo = '/srv'")
    assert load_config(file, {}).repo == Path("/srv")


def test_a_file_of_another_user_names_no_secrets_and_commands(tmp_path: Path) -> None:
    file = written(tmp_path, FILE, 0o644)
    os.chown(file, 12345, 12345)
    with pytest.raises(UsageError, match=rf"belongs to another user.*'chown root {file}' as root"):
        load_config(file, {})

    os.chown(file, 0, 0)
    assert load_config(file, {}).jobs
