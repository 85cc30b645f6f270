"""Verification of an encrypted repository without its key: checksums of packs and files."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from cbtfs.check.report import CheckReport, Problem, ProblemKind
from cbtfs.core.ids import is_id
from cbtfs.core.keyslot import UnknownSlot, decode_epoch, decode_slot
from cbtfs.errors import DataCorrupt
from cbtfs.store.backend.base import Backend
from cbtfs.store.backend.layout import (
    INDEXES,
    OVERLAYS,
    POINTS,
    RECORDS,
    load_outer,
    open_directory,
    open_packs,
)
from cbtfs.store.encryption.files import LARGEST_INDEX, verify_file
from cbtfs.store.encryption.ring import EPOCH_PREFIX, open_slots
from cbtfs.store.pack import outer_problem

StartProgress = Callable[[int], Callable[[int], None]]
_SEALED_SUFFIXES = ("", ".state", ".forgotten", ".distrusted")


def check_outer(path: Path, start_progress: StartProgress) -> CheckReport:
    """Verify the checksums of everything that is encrypted, and the key slots.

    The report has no points: their names and their needs are encrypted.
    """
    report = CheckReport(are_maps_known=False)
    for directory in (POINTS, OVERLAYS, INDEXES):
        with suppress(FileNotFoundError), closing(open_directory(path, directory)) as backend:
            report.problems += _files(backend, directory)
            if directory == POINTS:
                report.points = sum(is_id(name) for name in backend.names())
    for name in RECORDS:
        with suppress(FileNotFoundError):
            report.problems += _file(name, partial(load_outer, path, name))
    report.problems += _slots(path)
    with closing(open_packs(path, is_verifying=True)) as packs:
        names = sorted(filter(is_id, packs.names()))
        sizes = {name: _size(packs, name) for name in names}
        advance = start_progress(sum(sizes.values()))
        for name in names:
            problem = _pack(packs, name)
            report.bytes_read += sizes[name]
            if problem is not None:
                report.problems.append(Problem("pack", f"pack {name}: {problem}"))
            advance(sizes[name])
    return report


def _size(packs: Backend, name: str) -> int:
    try:
        return packs.head(name).size
    except (OSError, DataCorrupt):
        return 0  # _pack() reports the error.


def _pack(packs: Backend, name: str) -> str | None:
    try:
        return outer_problem(packs.open(name))
    except FileNotFoundError:
        return None  # A prune has removed it.
    except (OSError, DataCorrupt) as exc:
        return str(exc)


def _files(backend: Backend, directory: str) -> Iterator[Problem]:
    for name in sorted(backend.names()):
        stem, dot, suffix = name.partition(".")
        if is_id(stem) and dot + suffix in _SEALED_SUFFIXES:
            yield from _file(f"{directory}/{name}", partial(_content, backend, name))


def _content(backend: Backend, name: str) -> bytes:
    return backend.get(name).data


def _file(name: str, load: Callable[[], bytes]) -> Iterator[Problem]:
    try:
        verify_file(load(), LARGEST_INDEX)
    except FileNotFoundError:
        return  # It was removed since.
    except (OSError, ValueError, DataCorrupt) as exc:
        kind: ProblemKind = "state" if name.endswith(".state") else "manifest"
        yield Problem(kind, f"{name} is damaged: {exc}")


def _slots(path: Path) -> Iterator[Problem]:
    with closing(open_slots(path)) as backend:
        for name in sorted(backend.names()):
            decode: Callable[[bytes], object]
            if is_id(name):
                decode = decode_slot
            elif name.startswith(EPOCH_PREFIX):
                decode = decode_epoch
            else:
                continue
            try:
                decode(backend.get(name).data)
            except UnknownSlot:
                continue
            except (OSError, ValueError, DataCorrupt) as exc:
                yield Problem("state", f"key slot {name} is damaged: {exc}")
