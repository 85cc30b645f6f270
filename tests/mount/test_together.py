import os
import random
import threading
from pathlib import Path

import pytest

from cbtfs.core.manifest import Manifest
from tests.mount.support import serving
from tests.support import BLOCK


@pytest.mark.parametrize("workers", ["1", "3"])
def test_many_readers_at_once_get_the_right_bytes(
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
