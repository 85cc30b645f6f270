"""Source archive and wheel work without the checkout; manual pages match the help."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tools.manpages import FOLDER, pages

ROOT = Path(__file__).parent.parent
PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "cbtfs", "contrib")


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with the wheel that the source archive builds.

    The dependencies come from the tests' environment.
    """
    folder = tmp_path_factory.mktemp("packaging")
    for part in PARTS:
        source, target = ROOT / part, folder / "source" / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    sdist = "from setuptools import build_meta; build_meta.build_sdist('..')"
    _run(sys.executable, "-c", sdist, cwd=folder / "source")
    shutil.rmtree(folder / "source")
    (archive,) = folder.glob("cbtfs-*.tar.gz")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    options = ("--no-deps", "--no-index")
    build = ("wheel", *options, "--no-build-isolation", "--wheel-dir", folder, archive)
    _run(*pip, *build, cwd=folder)
    _run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    _run(*pip, "--python", python, "install", *options, wheel, cwd=folder)
    packages = Path(
        _run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    )
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


def test_the_program_of_a_wheel_takes_a_point_and_shows_it(installed: Path, tmp_path: Path) -> None:
    program = installed / "bin" / "cbtfs"
    (tmp_path / "disk.raw").write_bytes(b"content" * 1000)
    repository = f"--repo={tmp_path / 'repository'}"

    _run(program, repository, "init", cwd=tmp_path)
    _run(program, repository, "ingest", "image", "--vm=v", "--disk=d", "disk.raw", cwd=tmp_path)
    _run(program, repository, "restore", "v@latest", "d", "back.raw", cwd=tmp_path)

    assert (tmp_path / "back.raw").read_bytes() == b"content" * 1000
    where = "import cbtfs; print(cbtfs.__file__)"
    location = _run(installed / "bin" / "python", "-c", where, cwd=tmp_path)
    assert Path(location.strip()).is_relative_to(installed)


def test_a_wheel_brings_helper_units_and_manual_pages(installed: Path) -> None:
    assert (installed / "bin" / "mount.cbtfs").exists()
    assert (installed / "lib/systemd/system/cbtfs-mount@.service").exists()
    assert list(installed.glob("lib/python*/site-packages/cbtfs/py.typed"))
    names = {page.name for page in (installed / "share/man/man1").iterdir()}
    assert names == {page.name for page in FOLDER.glob("*.1")}


def test_the_readme_names_what_it_takes_and_the_set_up_installs_it() -> None:
    """Two of the programs come with the headers."""
    readme = (ROOT / "README.md").read_text("utf-8")
    lines = re.findall(r"^apt-get install (.*?) +# to (build|run)$", readme, re.M)
    named = {word for packages, _ in lines for word in packages.split()}
    setup = (ROOT / "tools" / "setup").read_text("utf-8")
    (listed,) = re.findall(r"^packages=\((.*?)^\)", setup, re.S | re.M)
    needed = {word for line in listed.splitlines() for word in line.partition("#")[0].split()}

    assert [purpose for _, purpose in lines] == ["build", "run"]
    assert named - {"libdeflate0", "libzstd1", "libssl3"} <= needed
    linked = re.findall(r'"(\w+)"', _linked())
    libraries = {"libssl-dev" if name == "crypto" else f"lib{name}-dev" for name in linked}
    assert libraries <= named


@pytest.mark.mounts
def test_pip_without_headers_prints_one_line_to_install_them(tmp_path: Path) -> None:
    for part in PARTS:
        source, target = ROOT / part, tmp_path / "source" / part
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    options = ["--no-build-isolation", "--target", str(tmp_path / "target")]
    hide = 'mount -t tmpfs tmpfs /usr/include && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hide, "sh", *pip, *options, "."]
    done = subprocess.run(
        command, cwd=tmp_path / "source", check=False, capture_output=True, text=True
    )

    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    readme = (ROOT / "README.md").read_text("utf-8")
    (build,) = re.findall(r"^(apt-get install .*?) +# to build$", readme, re.M)
    assert done.returncode == 1
    assert lines.count(build) == 1
    assert sum("libdeflate.h, zstd.h, openssl/evp.h not found" in line for line in lines) == 1


def _linked() -> str:
    (libraries,) = re.findall(r"libraries=\[(.*?)\]", (ROOT / "setup.py").read_text("utf-8"))
    return str(libraries)


def test_the_manual_pages_say_what_the_help_says() -> None:
    """After a change of the help: python -m tools.manpages."""
    assert {page.name: page.read_text("utf-8") for page in FOLDER.glob("*.1")} == pages()


def test_each_manual_page_has_environment_and_files() -> None:
    configuration = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    variables = set(re.findall(r"`(CBTFS_[A-Z0-9_]+)`", configuration))
    for text in pages().values():
        assert ".SH ENVIRONMENT\n.TP\n.B CBTFS_REPO\n" in text
        assert ".SH FILES\n.TP\n.B ~/.config/cbtfs/config.toml\n" in text

    assert variables == set(re.findall(r"^\.B (CBTFS_\w+)$", pages()["cbtfs.1"], re.M))


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_manual_page_has_no_fault(name: str) -> None:
    done = subprocess.run(
        ["man", "--warnings", "--local-file", str(FOLDER / name)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-ww"},
    )

    assert (done.returncode, done.stderr) == (0, "")
