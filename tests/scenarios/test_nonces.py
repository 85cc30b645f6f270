"""No key is used twice with a nonce, however writers end. CBTFS_KILLS sets the number of kills."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.encrypted import create_encrypted, encrypted_settings, write_key
from tests.make_points import BLOCK

KILLS: Final = int(os.environ.get("CBTFS_KILLS", "5"))
RECORDER: Final = Path(__file__).with_name("nonce_recorder.py")
ROOT: Final = Path(__file__).parents[2]


def test_no_pair_of_key_and_nonce_is_used_twice(tmp_path: Path) -> None:
    path, log, image = tmp_path / "repo", tmp_path / "log", tmp_path / "image"
    create_encrypted(path, encrypted_settings(BLOCK))
    rng, killed = random.Random(7), 0
    env = {**os.environ, "CBTFS_KEY_FILE": str(write_key(tmp_path / "key"))}
    env["PYTHONPATH"] = str(ROOT)

    def start(*words: str | Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, RECORDER, log, "-q", "--repo", path, *words]
        return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.DEVNULL)

    for number in range(KILLS):
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

    pairs = log.read_text().splitlines()
    assert len(pairs) > 1000
    assert len(set(pairs)) == len(pairs)
    assert killed > 0
