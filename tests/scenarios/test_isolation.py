"""No command runs code planted in the current directory, PYTHONPATH or a repository."""

import ast
import importlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import typer

import cbtfs
from cbtfs import process
from cbtfs.cli.main import app
from cbtfs.store.catalog import gate
from tests.make_points import MEMORY, add_point, new_repository
from tests.planted import STARTED_BEFORE, Planted, console_script, environment
from tests.scenarios.vsphere.site import VM, one_vm
from tests.scenarios.vsphere.vddk import libdir
from tools.vsim import Simulator
from tools.vsim.soap.certificate import make_certificate

pytestmark = pytest.mark.mounts

IMAGE: Final = b"content" * 3000


@dataclass(frozen=True, slots=True)
class Site:
    """Files and directories that the commands of this module use."""

    folder: Path
    repository: Path
    point: str
    base: str
    login: tuple[str, ...]
    vddk: Path

    def command(self, verb: str) -> list[str | Path]:
        """Return the arguments of *verb*."""
        place, target = self.folder / "mnt", self.folder / "restored"
        disk = self.folder / "disk.raw"
        overlays = f"--dir={self.folder / 'overlays'}"
        rows: dict[str, list[str | Path]] = {
            "init": [],
            "ingest image": ["--vm=other", "--disk=disk", disk],
            "ingest vsphere": [*self.login, "--transport=vddk", f"--vddk-libdir={self.vddk}", VM],
            "list": [],
            "show": [self.point],
            "extents": [self.point, "disk"],
            "diff": [self.base, self.point, "disk"],
            "blame": [self.point, "disk"],
            "bisect": ["vm", "--", "sh", "-c", f"[ $(wc -c < {{}}) = {len(IMAGE)} ]"],
            "mount": [f"--log-file={self.folder / 'log'}", "--workers=1", place],
            "status": [place],
            "umount": [place],
            "restore": [self.point, "disk", target],
            **self._files(),
            "export": [self.point, f"--socket={self._taken()}"],
            "overlay create": [self.point, "lab", overlays],
            "overlay start": ["lab", overlays, "--fork"],
            "overlay boot": ["lab", overlays],
            "overlay stop": ["lab", overlays],
            "overlay list": [],
            "overlay commit": ["lab", overlays],
            "overlay discard": ["lab", overlays],
            "check": ["--read-data"],
            "prove": [self.point, "--level=2"],
            "forget": [self.base],
            "unforget": [self.base],
            "run": ["nightly"],
            "protect": [self.point],
            "tag": [self.point, "a-tag"],
            "prune": [],
            "copy": [f"--to={self.folder / 'second'}"],
            **{f"key {verb}": [] for verb in KEY_VERBS},
            "key remove": ["slot"],
            "key export": [self.folder / "capture.key", "--role=capture"],
            "repair": [],
            "unlock": [],
            "upgrade": ["--shared-writers"],
            "stats": [],
            "cbt status": [*self.login, VM],
            "cbt enable": [*self.login, VM],
            "cbt reset": [*self.login, VM],
            "watch": [*self.login, "nobody"],
            "doctor": [*self.login, f"--vddk-libdir={self.vddk}", VM],
            "demo": ["--keep", self.folder],
        }
        return rows[verb]

    def _files(self) -> dict[str, list[str | Path]]:
        """Return the rows of `files`: the disk has no file system."""
        target = self.folder / "extracted"
        rows: dict[str, list[str | Path]] = {
            f"files {verb}": [f"{self.point}:/"] for verb in ("ls", "stat", "cat", "find")
        }
        rows["files diff"] = [self.point, self.point]
        rows["files index"] = [self.point]
        return rows | {"files extract": [f"{self.point}:/", target], "files log": ["vm:/file"]}

    def _taken(self) -> Path:
        """Return a directory in which the name of the socket is taken."""
        folder = self.folder / "taken"
        folder.mkdir(exist_ok=True)
        (folder / "nbd.sock").touch()
        return folder


KEY_VERBS: Final = ("list", "add", "remove", "passwd", "test", "rotate", "export")
FAILING: Final[Mapping[str, int]] = {
    "init": 2,  # there is one
    "check": 21,  # the catalog is damaged
    "demo": 2,  # the folder is there; tests/demo/test_demo.py runs it to its end
    "run": 2,  # there is no such job
    "watch": 2,  # there is no such VM; with one it would not end
    "export": 2,  # the name of its socket is taken: it would not end
    "overlay boot": 11,  # the overlay is running; tests/overlay/test_boot.py boots one
    **dict.fromkeys(["files ls", "files stat", "files cat", "files find", "files extract"], 12),
    "files log": 12,
    "files diff": 12,
    "files index": 12,
    **{f"key {verb}": 2 for verb in KEY_VERBS},  # the repository is not encrypted
    "doctor": 3,  # something is always in the way
}
"""Exit codes other than 0."""
LAST: Final = ("mount", "status", "umount")
"""Commands that must run last, in this order."""


def verbs(command: Any = None, name: str = "") -> Iterator[str]:
    """Yield all commands of the program."""
    command = command or typer.main.get_command(app)
    children = getattr(command, "commands", None)
    if children is None:
        yield name
        return
    for child in children:
        yield from verbs(children[child], f"{name} {child}".strip())


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory: this module does not test durability."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    certificate = make_certificate(tmp_path)
    with Simulator(one_vm(), certificate=certificate) as sim:
        repository = new_repository(tmp_path / "repository")
        base = add_point(repository, {"disk": IMAGE})
        point = add_point(repository, {"disk": IMAGE + b"more"})
        new_repository(tmp_path / "second")
        (tmp_path / "mnt").mkdir()
        (tmp_path / "disk.raw").write_bytes(IMAGE)
        password = tmp_path / "password"
        password.write_text(sim.user.password)
        password.chmod(0o600)
        login = (
            *("--server", f"{sim.host}:{sim.port}", "--user", sim.user.name),
            *("--ca-file", str(certificate.certificate), "--password-file", str(password)),
        )
        yield Site(tmp_path, repository, point.point, base.point, login, libdir(sim))


def need_the_verifier(repository: Path) -> None:
    """Make every command start LMDB's verifier, a child process, and rebuild the catalog."""
    (repository / "locks" / "writer").write_text("a writer that died")
    os.truncate(repository / "catalog" / gate.DATA, 2 * mmap.PAGESIZE)  # the meta pages


def run_all(site: Site, start: list[str | Path], cwd: Path, env: Mapping[str, str]) -> None:
    commands = list(verbs())
    for verb in [*(command for command in commands if command not in LAST), *LAST]:
        arguments = site.command(verb)  # a new command needs a row there
        if verb not in LAST:
            need_the_verifier(site.repository)
        done = subprocess.run(
            [*start, f"--repo={site.repository}", *verb.split(), *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == FAILING.get(verb, 0), f"{verb}: {done.stderr}"


@pytest.fixture
def planted(tmp_path: Path, site: Site) -> Planted:
    planted = Planted(tmp_path / "imported")
    for folder in (site.repository, site.repository / "catalog", site.repository / "points"):
        planted.plant(folder)
    return planted


def test_no_command_imports_planted_modules(site: Site, planted: Planted) -> None:
    path = planted.plant(site.folder / "path", is_in_path=True)
    program = console_script(site.folder)

    run_all(site, [program], site.repository, environment(path))

    assert planted.imported() == []


def test_the_module_run_by_name_imports_nothing_from_the_current_directory(
    site: Site, planted: Planted
) -> None:
    """Python itself loads the module of -m from there, so that module is not planted."""
    path = planted.plant(site.folder / "path", is_in_path=True)
    for name in STARTED_BEFORE:
        (site.repository / f"{name}.py").unlink()
    need_the_verifier(site.repository)

    done = subprocess.run(
        [sys.executable, "-m", "cbtfs", f"--repo={site.repository}", "list"],
        cwd=site.repository,
        env=environment(path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, planted.imported()) == (0, []), done.stderr


def test_children_find_packages_in_a_private_directory(tmp_path: Path) -> None:
    """As in a package of a distribution: not in the site-packages of the interpreter."""
    private = tmp_path / "private"
    private.mkdir()
    for package in ("cbtfs", "lmdb", "blake3", "zstandard"):
        (location,) = importlib.import_module(package).__path__
        (private / package).symlink_to(location)
    for library in Path(location).parent.glob("*.so"):
        (private / library.name).symlink_to(library)
    repository = new_repository(tmp_path / "repository")
    program = (
        f"import sys; sys.path.append({str(private)!r}); import cbtfs; from pathlib import Path; "
        f"from cbtfs.store.catalog import gate; print(gate.verify(Path({str(repository)!r}) "
        "/ 'catalog'), cbtfs.__file__)"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["None", str(private / "cbtfs" / "__init__.py")], done.stderr


def test_one_module_starts_all_child_processes() -> None:
    """Other functions could start processes too; each exception has its reason here."""
    starters = {"subprocess", "multiprocessing", "pty", "asyncio"}
    functions = {"system", "popen", "which"}
    prefixes = ("exec", "spawn", "posix_spawn")
    uses = set()
    for path in Path(cbtfs.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used = starters & {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                used = starters & {str(node.module).partition(".")[0]}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                is_starter = node.attr in functions or node.attr.startswith(prefixes)
                used = {node.attr} if node.value.id in ("os", "shutil") and is_starter else set()
            else:
                continue
            if used:
                uses.add((path.name, *used))

    # prove/confined.py becomes the program that it was started for, once it is confined.
    assert {name for name, *_ in uses} == {"process.py", "confined.py"}
    assert {use for name, *used in uses if name == "confined.py" for use in used} == {"execv"}


def test_a_child_gets_a_clean_environment_no_input_and_a_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CBTFS_VSPHERE_PASSWORD", "secret")
    monkeypatch.setenv("LD_PRELOAD_FOR_A_TEST", "x")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    show = "import json, os; print(json.dumps([dict(os.environ), os.readlink('/proc/self/fd/0')]))"

    variables, stdin = json.loads(process.run(process.interpreter(show), 60).stdout)
    with pytest.raises(process.TimeoutExpired):
        process.run(process.interpreter("import signal; signal.pause()"), 0.1)

    assert stdin == os.devnull
    assert set(variables) <= {
        *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ"),
        "XDG_STATE_HOME",  # an encrypted repository is remembered there
    }


def test_root_takes_programs_only_from_directories_that_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all, foreign, own = (tmp_path / name for name in ("open", "foreign", "own"))
    for folder in (open_to_all, foreign, own):
        folder.mkdir(mode=0o755)
        program = folder / "some-program"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    open_to_all.chmod(0o777)
    os.chown(foreign, 12345, 12345)
    monkeypatch.chdir(own)
    monkeypatch.setenv("PATH", os.pathsep.join(("", ".", str(open_to_all), str(foreign))))
    assert process.find_program("some-program") is None

    monkeypatch.setenv("PATH", f"{open_to_all}:{own}")

    assert process.find_program("some-program") == str(own / "some-program")
