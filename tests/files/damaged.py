"""Damaged copies of a file system, read by the engine `parse` and extracted.

Each copy has a parser of its own in a sandbox, which a server forks.

`python -m tests.files.damaged PARSER IMAGE COUNT SECONDS` runs a campaign as any user; it prints
how many images ran, and how they ended.
"""

import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from cbtfs.errors import CbtfsError, DataCorrupt
from cbtfs.files.engine_parse.engine import ParsedFileSystem
from cbtfs.files.engine_parse.processes import ForkedParsers, Parsers
from cbtfs.files.extract import Extraction
from cbtfs.files.probe.find import probe
from cbtfs.files.protocol import EngineFailed, FileSystem
from cbtfs.files.tree import GuestTree
from cbtfs.files.volumes import Volume
from tests.files.guest_trees import ImageSource

CALL_SECONDS: Final = 10.0
"""Limit of a parser for one call."""
LIMIT_SECONDS: Final = 60.0
"""Longest processor time that one image may take; an extraction has many calls."""
_MAX_CHANGES: Final = 300
_UNIT: Final = 64
_MAX_BYTES: Final = 4 << 20
"""Largest file that is extracted: a damaged size makes huge sparse files."""
_MAX_FILE_BYTES: Final = 32 << 20
"""Largest file that can be written; the rest of it is left out."""


def damage(original: bytes, used: list[int], seed: int) -> bytearray:
    """Return a copy with random bytes in areas that are not zeros."""
    chance, data = random.Random(seed), bytearray(original)
    for at in chance.choices(used, k=chance.randint(1, _MAX_CHANGES)):
        value = chance.choice((0, 1, 255, 1 << chance.randrange(8), chance.randrange(256)))
        data[min(at + chance.randrange(_UNIT), len(data) - 1)] = value
    return data


def used_areas(original: bytes, limit: int) -> list[int]:
    """Return the offsets of the first areas that are not zeros."""
    return [
        at for at in range(0, min(len(original), limit), _UNIT) if any(original[at : at + _UNIT])
    ]


def campaign(parser: str, image: Path, count: int, seconds: float = float("inf")) -> "Counter[str]":
    """Read *count* damaged copies, or as many as *seconds* allow; return how they ended."""
    original = image.read_bytes()
    used = used_areas(original, 8 << 20)
    results: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with (
        tempfile.TemporaryDirectory() as name,
        closing(ForkedParsers(parser)) as parsers,
        _small_files(),
    ):
        for seed in range(count):
            if time.monotonic() > end:
                break
            folder = Path(name, str(seed))
            folder.mkdir()
            start = _processor_seconds()
            results[_read(parser, damage(original, used, seed), folder, parsers)] += 1
            seconds = _processor_seconds() - start
            assert seconds < LIMIT_SECONDS, f"image {seed} took {seconds:.0f} s"
            left = {path.name for path in folder.iterdir()}
            assert left <= {"image", "target"}, f"image {seed} left {left}"
            _remove(folder)
    return results


@contextmanager
def _small_files() -> Iterator[None]:
    """Bound the files that are written: damaged extents can name the same blocks many times."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _read(parser: str, data: bytearray, folder: Path, parsers: Parsers) -> str:
    """Probe, open and extract one image; return how it ended."""
    image, target = folder / "image", folder / "target"
    image.write_bytes(data)
    source = ImageSource(image)
    probe(source)
    if parser == "none":
        return "probed"
    target.mkdir()
    try:
        file_system: FileSystem = ParsedFileSystem(
            source, parser, seconds=CALL_SECONDS, parsers=parsers
        )
    except EngineFailed as exc:
        return f"engine failed: {exc}"
    except CbtfsError as exc:
        return f"refused: {type(exc).__name__}"
    try:
        return _extract(file_system, Volume("root", source), target)
    finally:
        file_system.close()


def _extract(file_system: FileSystem, volume: Volume, target: Path) -> str:
    tree = GuestTree({"/": volume}, lambda _: file_system)
    extraction = Extraction(tree)
    try:
        top = tree.find("/")
        for file in tree.entries(top):
            if file.entry.size <= _MAX_BYTES:
                extraction.into(file, target, file.entry.name or "empty")
    except EngineFailed as exc:
        return f"engine failed: {exc}"
    except DataCorrupt:
        return "damaged"
    except CbtfsError as exc:
        return f"refused: {type(exc).__name__}"
    return "extracted" if not extraction.result.left_out.items else "some left out"


def _remove(folder: Path) -> None:
    """Remove a directory with anything in it, also directories without permissions."""
    if (folder / "target").is_dir():
        subprocess.run(["chmod", "-R", "u+rwx", folder / "target"], check=False)
    shutil.rmtree(folder)


if __name__ == "__main__":
    for text, number in campaign(
        sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    ).most_common():
        print(number, text)
