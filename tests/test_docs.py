"""The commands that the documents show are run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

_PREPARE = """\
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /srv
mount -t tmpfs tmpfs /mnt
mkdir /srv/images /mnt/backup
head -c 300000 /dev/urandom > /srv/images/web01.raw
truncate -s 8M /srv/images/web01.raw
"""
_COMPARE = """
cmp /srv/images/web01.raw /srv/images/web01-restored.raw
cmp /srv/images/web01.raw /mnt/backup/web01/latest/root.raw
cbtfs check --read-data
cbtfs umount /mnt/backup
"""


def _commands(page: str, first: str) -> str:
    """The block of commands on a page that starts with *first*."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    (found,) = [block for block in blocks if block.startswith(first)]
    return str(found)


def test_the_five_commands_of_the_readme_capture_list_mount_and_restore() -> None:
    script = _PREPARE + _commands("README.md", "export CBTFS_REPO") + _COMPARE
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script],
        env={"PATH": path, "HOME": "/mnt"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert re.search(r"^web01 +\S+ +full ", done.stdout, re.M)
