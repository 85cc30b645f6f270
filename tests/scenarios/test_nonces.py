"""No key is used twice with a nonce, however writers end. CBTFS_KILLS sets the number of kills."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cbtfs.core.rolefile import Role
from cbtfs.store.encryption.roles import write_role
from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK
from tests.roles import create_with_capture_keys, role_of

KILLS: Final = int(os.environ.get("CBTFS_KILLS", "5"))
RECORDER: Final = Path(__file__).with_name("nonce_recorder.py")
ROOT: Final = Path(__file__).parents[2]


@pytest.mark.parametrize("role", [Role.ADMIN, Role.CAPTURE])
def test_no_pair_of_key_and_nonce_is_used_twice(tmp_path: Path, role: Role) -> None:
    """With a capture key, the writers are those of the role; the other commands need the key."""
    path, log, image = tmp_path / "repo", tmp_path / "log", tmp_path / "image"
    key = captures = write_key(tmp_path / "key")
    if role is Role.CAPTURE:
        captures = tmp_path / "capture"
        write_role(captures, role_of(create_with_capture_keys(path)))
    else:
        create_encrypted(path, encrypted_settings(BLOCK))
    rng, killed = random.Random(7), 0
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("CBTFS_KEY_FILE", None)

    def start(*words: str | Path) -> subprocess.Popen[bytes]:
        words = ("--key-file", captures if words[0] == "ingest" else key, *words)
        command = [sys.executable, RECORDER, log, "-q", "--repo", path, *words]
        return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL)

    for number in range(KILLS if role is Role.ADMIN else min(KILLS, 3)):
        image.write_bytes(rng.randbytes(400 * BLOCK) + b"text" * (100 * BLOCK))
        words = ("ingest", "image", str(image), "--vm=v", "--disk=d")
        if number % 3 == 2:
            assert start(*words).wait() == 0
            assert start("forget", "v", "--keep-last=1").wait() == 0
            assert start("prune", "--max-unused=0%").wait() == 0
            continue
        before = log.stat().st_size if log.exists() else 0
        writer = start(*words)
        wanted = before + rng.randrange(1, 60_000)
        while writer.poll() is None and (not log.exists() or log.stat().st_size < wanted):
            os.sched_yield()
        writer.kill()
        killed += writer.wait() != 0

    assert start("check", "--read-data").wait() == 0
    pairs = log.read_text().splitlines()
    assert len(pairs) > 1000
    assert len(set(pairs)) == len(pairs)
    assert killed > 0
