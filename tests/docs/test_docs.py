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
mount -t tmpfs tmpfs /var/tmp
mkdir /srv/images /mnt/backup /mnt/look /mnt/tree
echo looked > /mnt/tree/at
truncate -s 8M /srv/images/web01.raw
echo 'start=2048' | sfdisk --quiet --label gpt /srv/images/web01.raw
mkfs.ext4 -q -d /mnt/tree -E offset=1048576 /srv/images/web01.raw 6M
trap 'umount -q /mnt/look || true; umount -q /var/tmp/*/slice.raw || true
    kill "$(cat /var/tmp/*/pid)" || true
    for i in 1 2 3 4 5; do cbtfs umount /mnt/backup 2>/dev/null && break; done' EXIT
"""
_COMPARE = """
cmp /srv/images/web01.raw /srv/images/web01-restored.raw
cmp /srv/images/web01.raw /mnt/backup/web01/latest/root.raw
cbtfs check --read-data
"""
_RUN_BY = {
    ("README.md", "make demo"): "demo/test_demo.py",
    ("README.md", "apt-get install"): "test_packaging.py",
    ("README.md", "export CBTFS_REPO"): "docs/test_docs.py",
    ("README.md", 'cd "$(mktemp'): "docs/test_docs.py",
    ("README.md", "cbtfs ingest vsphere"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "openssl x509"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "cbtfs --repo /srv/backup init"): "scenarios/vsphere/test_manual.py",
    ("vsphere.md", "cbtfs doctor"): "scenarios/vsphere/test_manual.py",
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


def test_the_five_commands_of_the_readme_capture_list_mount_and_restore() -> None:
    look = _commands("README.md", 'cd "$(mktemp') + "cat /mnt/look/at\n"
    script = _PREPARE + _commands("README.md", "export CBTFS_REPO") + _COMPARE + look
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        env={"PATH": path, "HOME": "/mnt"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"^web01 .* full +root ", done.stdout, re.M)
    assert done.stdout.endswith("looked\n")


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
