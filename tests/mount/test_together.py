import os
import random
import sys
import threading
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from tests.make_points import BLOCK
from tests.mount.mount_process import serving

pytestmark = pytest.mark.mounts


@pytest.mark.parametrize("workers", ["1", "3"])
def test_concurrent_readers_get_correct_bytes(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path, workers: str
) -> None:
    failures: list[object] = []

    def read(seed: int, path: Path) -> None:
        choose = random.Random(seed)
        for _ in range(20):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
            try:
                for _ in range(20):
                    offset = choose.randrange(len(image) // BLOCK) * BLOCK
                    length = choose.randrange(1, 20) * BLOCK
                    if os.pread(fd, length, offset) != image[offset : offset + length]:
                        failures.append(offset)
            except OSError as exc:
                failures.append(exc)
            finally:
                os.close(fd)

    with serving(repository, tmp_path / "mnt", f"--workers={workers}") as server:
        readers = [
            threading.Thread(target=read, args=(seed, server.disk(point))) for seed in range(8)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert failures == []
    assert server.wait() == 0


_UNPREPARED = """
from cbtfs.cli.main import run
from cbtfs.mount.filesystem import FileSystem
FileSystem.prepare = lambda *_: False
run()
"""


def test_unprepared_reads_do_not_wait_for_each_other(
    repository: Path, point: Manifest, image: bytearray, tmp_path: Path
) -> None:
    rounds, done = threading.Barrier(2), []
    program = (sys.executable, "-c", _UNPREPARED)

    def read(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        for number in range(500):
            rounds.wait(timeout=60)
            os.pread(fd, BLOCK, number % 90 * BLOCK)
        os.close(fd)
        done.append(path)

    with serving(repository, tmp_path / "mnt", "--workers=2", program=program) as server:
        path = server.disk(point)
        readers = [threading.Thread(target=read, args=(path,), daemon=True) for _ in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout=60)

        assert done == [path, path]
