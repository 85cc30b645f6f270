"""Build a Debian package of cbtfs that carries its own environment: `tools/package`.

The package has a virtual environment in /usr/lib/cbtfs with cbtfs and all libraries of Python, and
uses the Python of the system. Manual pages, units and completions are in the directories of the
system. The package is for the Debian release and the architecture of the machine that builds it.
"""

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from cbtfs import __version__

ROOT: Final = Path(__file__).parents[1]
HOME: Final = Path("usr/lib/cbtfs")
"""The environment, relative to the root of the package."""
PYTHON: Final = Path("/usr/bin/python3")
"""The Python of the system. Another one would be missing where the package is installed."""
_PIP: Final = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
_COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/cbtfs",
    "zsh": "usr/share/zsh/vendor-completions/_cbtfs",
    "fish": "usr/share/fish/vendor_completions.d/cbtfs.fish",
}
_NEEDED: Final = ("fuse3", "mount")
"""Packages of programs that cbtfs starts. Those of shared libraries are found by ldd."""
_CONTROL: Final = """\
Package: cbtfs
Version: {version}
Architecture: {architecture}
Maintainer: cbtfs maintainers <maintainers@cbtfs.invalid>
Installed-Size: {kib}
Depends: {depends}
Recommends: libnbd0, util-linux
Suggests: qemu-utils, qemu-system-common, nbdkit
Section: admin
Priority: optional
Description: incremental backup of virtual disks with Changed Block Tracking
 cbtfs captures VMware virtual disks into a deduplicated repository. A mount shows
 every restore point as a raw disk file. The package carries its own environment
 with all libraries of Python in /usr/lib/cbtfs.
"""
_RELOAD: Final = """\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
"""
_REMOVED: Final = 'if [ "$1" = remove ] || [ "$1" = purge ]; then\n    rm -rf /usr/lib/cbtfs\nfi\n'
"""Removes what Python has cached beside the modules."""


def build(into: Path, wheel: Path | None = None, environment: Path | None = None) -> Path:
    """Build the package in the directory *into* and return its path.

    *wheel*: a wheel of cbtfs; without it, one is built. *environment*: a site-packages directory
    from which the libraries are copied; without it, pip installs them. With it, only cbtfs itself
    is compiled, and nothing is compressed: that is the quick form for tests.
    """
    is_quick = environment is not None
    os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="cbtfs-package-") as folder:
        stage = Path(folder, "root")
        home = stage / HOME
        wheel = wheel or _build_wheel(Path(folder))
        _run(PYTHON, "-m", "venv", "--without-pip", home)
        _install(home, wheel, environment)
        _relocate(home, stage)
        _move_shared_files(home, stage)
        _add_links(stage)
        _add_completions(home, stage)
        _add_documents(stage)
        _strip_and_compile(home, stage, "cbtfs" if is_quick else "")
        _add_control(stage)
        architecture = _output("dpkg", "--print-architecture").strip()
        package = into / f"cbtfs_{__version__}_{architecture}.deb"
        into.mkdir(parents=True, exist_ok=True)
        compression = "-Znone" if is_quick else "-Zxz"
        _run("dpkg-deb", "--root-owner-group", compression, "--build", stage, package)
    return package


def _run(*command: str | Path) -> None:
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


def _output(*command: str | Path) -> str:
    return subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def _build_wheel(folder: Path) -> Path:
    _run(*_PIP, "wheel", "--no-deps", "--wheel-dir", folder / "wheel", ROOT)
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def _install(home: Path, wheel: Path, environment: Path | None) -> None:
    install = (*_PIP, "--python", home / "bin" / "python", "install", "--no-compile")
    if environment is None:
        _run(*install, "--constraint", ROOT / "tools" / "constraints.txt", wheel)
        return
    _run(*install, "--no-deps", "--no-index", wheel)
    (target,) = home.glob("lib/python*/site-packages")
    if environment.parent.name != target.parent.name:
        raise SystemExit(
            f"package: {environment} is not of {target.parent.name}, the Python of the system; "
            "build without --environment"
        )
    for name in libraries(environment):
        _copy(name, environment, target)


def libraries(environment: Path) -> list[str]:
    """Return the names of all distributions that cbtfs requires, directly or not."""
    required: dict[str, None] = {}
    pending = ["cbtfs"]
    while pending:
        (distribution,) = metadata.distributions(name=pending.pop(), path=[str(environment)])
        for text in distribution.requires or ():
            requirement = Requirement(text)
            name = re.sub(r"[-_.]+", "-", requirement.name).lower()
            is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if is_needed and name not in required:
                required[name] = None
                pending.append(name)
    return list(required)


def _copy(name: str, environment: Path, target: Path) -> None:
    """Copy the files of a distribution, except for programs and compiled modules of Python."""
    (distribution,) = metadata.distributions(name=name, path=[str(environment)])
    for file in distribution.files or ():
        if file.suffix == ".pyc" or ".." in file.parts:
            continue
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(environment / file, target / file)


def _relocate(home: Path, stage: Path) -> None:
    """Replace the path of the staging directory by the installed one, and drop what pip needs."""
    for script in (home / "bin").iterdir():
        if script.is_symlink():
            continue
        if script.name not in ("cbtfs", "mount.cbtfs"):
            script.unlink()
            continue
        script.write_text(script.read_text("utf-8").replace(f"{stage}/", "/"), "utf-8")
    settings = home / "pyvenv.cfg"
    kept = [line for line in settings.read_text().splitlines() if not line.startswith("command")]
    settings.write_text("\n".join(kept) + "\n")
    for record in home.glob("lib/python*/site-packages/*.dist-info/direct_url.json"):
        record.unlink()


def _move_shared_files(home: Path, stage: Path) -> None:
    """Move manual pages and units of the wheel to the directories of the system."""
    pages = stage / "usr/share/man/man1"
    pages.mkdir(parents=True)
    for page in (home / "share/man/man1").iterdir():
        _compress(page.read_bytes(), pages / f"{page.name}.gz")
    units = stage / "usr/lib/systemd/system"
    units.parent.mkdir(parents=True)
    shutil.move(home / "lib/systemd/system", units)
    shutil.rmtree(home / "lib/systemd")
    shutil.rmtree(home / "share")


def _compress(data: bytes, path: Path) -> None:
    path.write_bytes(gzip.compress(data, 9, mtime=0))


def _add_links(stage: Path) -> None:
    """Link the programs; mount(8) looks for helpers in /usr/sbin."""
    for folder, name in (("usr/bin", "cbtfs"), ("usr/sbin", "mount.cbtfs")):
        (stage / folder).mkdir(parents=True)
        (stage / folder / name).symlink_to(f"../lib/cbtfs/bin/{name}")


def _add_completions(home: Path, stage: Path) -> None:
    for shell, place in _COMPLETIONS.items():
        text = subprocess.run(
            [home / "bin" / "python", "-I", "-m", "cbtfs"],
            env={"_CBTFS_COMPLETE": f"source_{shell}", "PATH": os.defpath},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        (stage / place).parent.mkdir(parents=True)
        # Typer names the program after the module that was run.
        (stage / place).write_text(text, "utf-8")


def _add_documents(stage: Path) -> None:
    folder = stage / "usr/share/doc/cbtfs"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "LICENSE", folder / "copyright")
    _compress((ROOT / "CHANGELOG.md").read_bytes(), folder / "changelog.gz")
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        shutil.copy(page, folder)


def _strip_and_compile(home: Path, stage: Path, package: str) -> None:
    """Strip shared libraries, and compile modules: root must not write caches at the first run.

    *package*: the directory of modules in site-packages; empty: all.
    """
    for library in home.rglob("*.so"):
        _run("strip", "--strip-unneeded", library)
    for cache in [*home.rglob("__pycache__")]:
        shutil.rmtree(cache)
    compile_all = ("-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash")
    (site,) = home.glob("lib/python*/site-packages")
    _run(home / "bin" / "python", *compile_all, "-s", stage, "-p", "/", site / package)


def _add_control(stage: Path) -> None:
    control = stage / "DEBIAN"
    control.mkdir()
    files = sorted(path for path in stage.rglob("*") if path.is_file() and not path.is_symlink())
    sums = [f"{hashlib.md5(f.read_bytes()).hexdigest()}  {f.relative_to(stage)}\n" for f in files]
    text = _CONTROL.format(
        version=__version__,
        architecture=_output("dpkg", "--print-architecture").strip(),
        kib=sum(file.stat().st_size for file in files) // 1024,
        depends=", ".join(_depends(stage)),
    )
    (control / "control").write_text(text)
    (control / "md5sums").write_text("".join(sums))
    for name, script in (("postinst", _RELOAD), ("postrm", _RELOAD + _REMOVED)):
        (control / name).write_text(script)
        (control / name).chmod(0o755)


def _depends(stage: Path) -> Iterator[str]:
    """Yield the packages that the programs and the shared libraries require."""
    version = _output(PYTHON, "-c", "import sys; print(sys.version_info[1])")
    minor = int(version)
    yield f"python3 (>= 3.{minor}~)"
    yield f"python3 (<< 3.{minor + 1})"
    yield from _NEEDED
    linked: set[Path] = set()
    for library in stage.rglob("*.so"):
        for place in re.findall(r"=> (/\S+)", _output("ldd", library)):
            if not Path(place).is_relative_to(stage):
                linked.add(Path(place))
    yield from sorted({_owner(library) for library in linked})


def _owner(library: Path) -> str:
    """Return the package that a shared library belongs to."""
    for path in (library, library.resolve(), Path("/usr", *library.parts[1:])):
        done = subprocess.run(
            ["dpkg-query", "-S", path], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout.partition(":")[0]
    raise SystemExit(f"package: no package has {library}, which a library of Python requires")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the package and print its path."""
    parser = argparse.ArgumentParser(prog="tools/package", description="Build a Debian package.")
    parser.add_argument(
        "--into", metavar="DIR", type=Path, default=Path("build"), help="directory of the package"
    )
    parser.add_argument("--wheel", metavar="FILE", type=Path, help="take this wheel of cbtfs")
    parser.add_argument(
        "--environment",
        metavar="DIR",
        type=Path,
        help="quick form for tests: copy libraries from this site-packages directory",
    )
    given = parser.parse_args(arguments)
    print(build(given.into.absolute(), given.wheel, given.environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
