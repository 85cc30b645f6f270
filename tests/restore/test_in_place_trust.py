"""Trust in a target: markers, killed restores, and targets whose writes fail."""

import errno
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from cbtfs.core.manifest import Manifest
from cbtfs.core.sealed import seal, unseal
from cbtfs.errors import SourceMismatch, TargetFailed, UsageError
from cbtfs.restore import in_place, marker
from cbtfs.restore.in_place_target import InPlaceFile
from cbtfs.store import files
from tests.make_points import BLOCK, add_point, new_repository
from tests.restore.test_in_place import restore

_BLOCKS: Final = 400
_KILLS: Final = int(os.environ.get("CBTFS_IN_PLACE_KILLS", "25"))


def images() -> list[bytes]:
    """Return three images: 400 blocks, of which each next one changes about a tenth."""
    chance = random.Random(18)
    blocks = [chance.choice((0, chance.randrange(1, 256))) for _ in range(_BLOCKS)]
    made = []
    for _ in range(3):
        for at in chance.sample(range(_BLOCKS), _BLOCKS // 10):
            blocks[at] = chance.choice((0, chance.randrange(1, 256)))
        made.append(b"".join(bytes([block]) * BLOCK for block in blocks))
    return made


IMAGES: Final = images()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_repository(tmp_path_factory.mktemp("r") / "repository")


@pytest.fixture(scope="module")
def points(repository: Path) -> list[Manifest]:
    return [add_point(repository, {"d": image}) for image in IMAGES]


@pytest.fixture
def target(repository: Path, points: list[Manifest], tmp_path: Path) -> Path:
    """Return a file that holds the first point, with a complete marker."""
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(len(IMAGES[0])))
    restore(repository, points[0], path)
    return path


def marker_of(target: Path) -> Path:
    return target.with_name(target.name + ".cbtfs")


@pytest.mark.parametrize("kept_blocks", [1 << 16, 3])
def test_the_difference_alone_is_read_and_written(
    repository: Path,
    points: list[Manifest],
    target: Path,
    kept_blocks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A difference of more blocks than are kept is determined again for the writes."""
    monkeypatch.setattr("cbtfs.restore.known_difference._KEPT_BLOCKS", kept_blocks)
    unlike = [
        at
        for at in range(0, len(IMAGES[0]), BLOCK)
        if IMAGES[0][at : at + BLOCK] != IMAGES[1][at : at + BLOCK]
    ]

    result = restore(repository, points[1], target, points[0])

    assert target.read_bytes() == IMAGES[1]
    assert result.bytes_written == len(unlike) * BLOCK
    assert result.bytes_read == (len(unlike) + min(256, _BLOCKS)) * BLOCK
    assert unseal(marker_of(target).read_bytes())["point"] == points[1].point


def _write(target: Path) -> None:
    with target.open("r+b") as file:
        file.write(b"stray")


def _write_and_restore_mtime(target: Path) -> None:
    facts = target.stat()
    _write(target)
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _replace(target: Path) -> None:
    copy = target.with_name("copy")
    copy.write_bytes(target.read_bytes())
    facts = target.stat()
    os.utime(copy, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    copy.rename(target)


def _grow(target: Path) -> None:
    os.truncate(target, target.stat().st_size + 1)


def _remove_marker(target: Path) -> None:
    marker_of(target).unlink()


def _restart_host(target: Path) -> None:
    document = unseal(marker_of(target).read_bytes())
    marker_of(target).write_bytes(seal({**document, "boot": "another"}))


def _move_to_another_device(target: Path) -> None:
    document = unseal(marker_of(target).read_bytes())
    facts = {**document["file"], "device": document["file"]["device"] + 1}
    marker_of(target).write_bytes(seal({**document, "file": facts}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_move_to_another_device, "device changed"),
        (_write, "mtime_ns changed"),
        (_write_and_restore_mtime, "ctime_ns changed"),
        (_replace, "inode changed"),
        (_grow, "size changed"),
        (_remove_marker, "does not exist"),
        (_restart_host, "host was restarted"),
    ],
)
def test_a_target_that_may_have_changed_is_refused_unchanged(
    repository: Path,
    points: list[Manifest],
    target: Path,
    change: Callable[[Path], None],
    why: str,
) -> None:
    change(target)
    before = target.read_bytes()

    with pytest.raises(SourceMismatch, match=f"{why}.*--compare"):
        restore(repository, points[1], target, points[0])
    assert target.read_bytes() == before

    restore(repository, points[1], target)

    assert target.read_bytes()[: len(IMAGES[1])] == IMAGES[1]


def test_a_target_that_holds_another_point_is_refused(
    repository: Path, points: list[Manifest], target: Path
) -> None:
    with pytest.raises(SourceMismatch, match="another content"):
        restore(repository, points[2], target, points[1])

    assert target.read_bytes() == IMAGES[0]


@pytest.mark.parametrize("is_in_difference", [True, False])
def test_a_change_that_no_time_shows_is_detected_by_content(
    repository: Path,
    points: list[Manifest],
    target: Path,
    is_in_difference: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cbtfs.restore.in_place._SAMPLE_BLOCKS", _BLOCKS)
    at = next(
        at
        for at in range(0, len(IMAGES[0]), BLOCK)
        if (IMAGES[0][at : at + BLOCK] != IMAGES[1][at : at + BLOCK]) == is_in_difference
    )
    with target.open("r+b") as file:
        file.seek(at)
        file.write(b"stray")
    before = target.read_bytes()
    document = unseal(marker_of(target).read_bytes())
    document["file"] = marker._facts(target.stat())
    marker_of(target).write_bytes(seal(document))

    with pytest.raises(SourceMismatch, match=f"at byte {at}"):
        restore(repository, points[1], target, points[0])
    assert target.read_bytes() == before


def test_a_state_file_replaces_the_marker(
    repository: Path, points: list[Manifest], tmp_path: Path
) -> None:
    target, state = tmp_path / "disk.raw", tmp_path / "state"
    target.write_bytes(bytes(len(IMAGES[0])))

    restore(repository, points[0], target, state=state)
    restore(repository, points[1], target, points[0], state=state)

    assert target.read_bytes() == IMAGES[1]
    assert not marker_of(target).exists()


def test_a_state_file_never_replaces_another_file(
    repository: Path, points: list[Manifest], target: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    inside = repository / "state"

    for state, why in {
        mine: "not a marker",
        mine / "below": "not a marker",
        target: "is the target",
        inside: "inside the repository",
    }.items():
        with pytest.raises(UsageError, match=why):
            restore(repository, points[1], target, state=state)
    with pytest.raises(TargetFailed, match="--state"):
        restore(repository, points[1], target, state=tmp_path / "none" / "state")
    assert mine.read_bytes() == b"mine"
    assert target.read_bytes() == IMAGES[0]
    assert not inside.exists()


def test_a_writer_during_the_last_step_leaves_no_trusted_marker(
    repository: Path, points: list[Manifest], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = marker._wait_beyond

    def wait_and_write(*times: int) -> None:
        wait(*times)
        _write(target)

    monkeypatch.setattr(marker, "_wait_beyond", wait_and_write)

    with pytest.raises(TargetFailed, match="another program writes"):
        restore(repository, points[1], target)
    assert unseal(marker_of(target).read_bytes())["state"] == "applying"


def test_a_write_right_after_a_restore_changes_a_time(
    repository: Path, points: list[Manifest], target: Path
) -> None:
    for number in range(20):
        newest = points[number % 2]
        restore(repository, newest, target)
        _write(target)
        with pytest.raises(SourceMismatch, match="changed"):
            restore(repository, points[2], target, newest)


class _Trip:
    """Calls *act* at the given one of the calls that change the target or its marker."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
        self._left = at
        self._act = act
        for name in ("write", "zero", "flush"):
            patch.setattr(InPlaceFile, name, self._wrapped(getattr(InPlaceFile, name)))
        patch.setattr(in_place._Run, "_copy", self._wrapped(in_place._Run._copy))
        patch.setattr(marker, "replace", self._wrapped(files.replace))

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self._left -= 1
            if not self._left:
                self._act()
            return function(*arguments)

        return call


def test_the_run_after_a_killed_one_continues_to_any_point(
    repository: Path, points: list[Manifest], target: Path
) -> None:
    chance = random.Random(_KILLS)
    killed = trusted = 0
    held: int | None = 0
    while killed < _KILLS:
        wanted = chance.randrange(3)
        base = None if held is None or chance.random() < 0.3 else points[held]
        kills_at = chance.randrange(1, 30)
        child = os.fork()
        if not child:
            _restore_and_die(repository, points[wanted], target, base, kills_at)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            killed += 1
        else:
            assert os.WEXITSTATUS(status) == 0
            assert target.read_bytes() == IMAGES[wanted]
            trusted += base is not None
            held = wanted
            continue
        following = chance.randrange(3)
        for believed in range(3):  # Succeeds only if the target holds that point.
            try:
                restore(repository, points[following], target, points[believed])
            except SourceMismatch:
                continue
            assert target.read_bytes() == IMAGES[following]
        restore(repository, points[following], target)
        assert target.read_bytes() == IMAGES[following]
        held = following
    assert trusted


def _restore_and_die(
    repository: Path, point: Manifest, target: Path, base: Manifest | None, kills_at: int
) -> None:
    """Restore in a child, which SIGKILL ends at that change; never return."""
    try:
        _Trip(pytest.MonkeyPatch(), kills_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        restore(repository, point, target, base)
        os._exit(0)
    except BaseException:
        os._exit(9)


def test_an_error_of_the_target_at_any_change_leaves_no_trusted_target(
    repository: Path, points: list[Manifest], target: Path
) -> None:
    failed = 0
    for at in range(1, 100):
        number = (errno.EIO, errno.ENOSPC)[at % 2]

        def fail(number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        restore(repository, points[0], target)
        base = points[0] if at % 3 else None
        with pytest.MonkeyPatch.context() as patch:
            _Trip(patch, at, fail)
            try:
                restore(repository, points[1], target, base)
            except TargetFailed:
                failed += 1
            else:
                break
        state = unseal(marker_of(target).read_bytes())["state"]
        assert state == ("complete" if at == 1 else "applying")
        restore(repository, points[1], target)
        assert target.read_bytes() == IMAGES[1]
    assert 10 < failed < 99


@pytest.mark.parametrize("is_direct", [True, False])
@pytest.mark.parametrize("has_base", [True, False])
def test_an_error_of_a_write_by_compiled_code_leaves_no_trusted_target(
    repository: Path,
    points: list[Manifest],
    target: Path,
    is_direct: bool,
    has_base: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The descriptors of compiled code can only read."""
    original = InPlaceFile.__init__
    fds = [os.open(target, os.O_RDONLY), os.open(target, os.O_RDONLY | os.O_DIRECT)]

    def open_for_reading(opened: InPlaceFile, *arguments: Any) -> None:
        original(opened, *arguments)
        opened.files = fds[0], fds[1] if is_direct else -1

    with monkeypatch.context() as patch:
        patch.setattr(InPlaceFile, "__init__", open_for_reading)
        with pytest.raises(TargetFailed, match="Bad file descriptor"):
            restore(repository, points[1], target, points[0] if has_base else None)
    assert unseal(marker_of(target).read_bytes())["state"] == "applying"
    for fd in fds:
        os.close(fd)

    restore(repository, points[1], target)

    assert target.read_bytes() == IMAGES[1]
