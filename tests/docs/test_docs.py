"""Run the commands of README.md, and check that tests run those of every other document."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mounts

ROOT = Path(__file__).parents[2]

_PREPARE = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /srv
mount -t tmpfs tmpfs /mnt
trap 'umount -q /mnt/look || true
    for i in 1 2 3 4 5; do cbtfs umount /mnt/backup 2>/dev/null && break; done' EXIT
"""
"""No directory but /srv and /mnt exists: the page makes the others."""
_COMPARE = """
cmp /srv/web01.raw /srv/web01-restored.raw
cmp /etc/passwd /srv/passwd-of-web01
cbtfs check --read-data
"""
_RUN_BY = {
    ("README.md", "make demo"): "demo/test_demo.py",
    ("README.md", "apt-get install"): "test_packaging.py",
    ("README.md", "truncate"): "docs/test_docs.py",
    ("README.md", "mkdir -p /mnt/look"): "docs/test_docs.py",
    ("README.md", "cbtfs ingest vsphere"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "openssl x509"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "cbtfs --repo /srv/backup init"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "cbtfs doctor --server"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "cbtfs doctor --try-nfc"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "cbtfs cbt"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "cd /srv/images"): "scenarios/vsphere/test_restored_vm.py",
    ("recipes.md", '{"execute": "blockdev-add"'): "source/nbd/test_bitmaps.py",
    ("recipes.md", ""): "docs/test_recipes.py",
    ("operations.md", ""): "docs/test_operations.py",
    ("getting-started.md", ""): "docs/test_getting_started.py",
    ("troubleshooting.md", ""): "docs/test_troubleshooting.py",
    ("configuration.md", ""): "scenarios/vsphere/test_configuration.py",
    ("python.md", ""): "docs/test_python.py",
    ("vsim.md", ""): "tools/vsim/test_manual.py",
}
"""Test files by page and start of a block's first line; an empty start means every block."""


def _commands(page: str, first: str) -> str:
    """Return the block of commands of *page* that starts with *first*."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    (match,) = [block for block in blocks if block.startswith(first)]
    return str(match)


def test_the_commands_of_the_readme_capture_mount_and_get_a_file_back(tmp_path: Path) -> None:
    blocks = (_commands("README.md", first) for first in ("truncate", "mkdir -p /mnt/look"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", _PREPARE + "".join(blocks) + _COMPARE],
        env={"PATH": path, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    kinds = re.findall(r"^web01 .* (full|scan: no list) +root .* ([0-9.]+ \w+) ", done.stdout, re.M)
    assert [kind for kind, _ in kinds] == ["full", "scan: no list"]
    assert re.search(r"^/srv/backup is mounted on /mnt/backup: 2 restore points", done.stdout, re.M)
    assert "root.raw" in done.stdout


def test_every_code_block_with_a_language_has_a_test() -> None:
    """A block without a language is only shown."""
    pages = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    blocks = [
        (page.name, first)
        for page in pages
        for first in re.findall(r"^```[a-z]+\n(.*)\n", page.read_text("utf-8"), re.M)
    ]
    covered = {
        row: [block for block in blocks if block[0] == row[0] and block[1].startswith(row[1])]
        for row in _RUN_BY
    }

    assert [b for b in blocks if not any(b in matches for matches in covered.values())] == []
    assert [row for row, matches in covered.items() if not matches] == []
    for (page, _), test in _RUN_BY.items():
        text = (ROOT / "tests" / test).read_text("utf-8")
        assert page in text or test == "demo/test_demo.py"


def test_every_link_has_a_target() -> None:
    broken = []
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if link.startswith("http") or (
                target.exists() and (not anchor or _has(target, anchor))
            ):
                continue
            broken.append((page.name, link))

    assert broken == []


def test_every_path_of_the_checkout_exists() -> None:
    missing = [
        (page.name, path)
        for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
        for path in re.findall(
            r"`((?:cbtfs|tests|tools|contrib|docs)/[\w./@-]+)`", page.read_text()
        )
        if not (ROOT / path).exists()
    ]

    assert missing == []


def _has(page: Path, anchor: str) -> bool:
    """Return whether *page* has a heading with the anchor *anchor*, by GitHub's rules."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return anchor in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
