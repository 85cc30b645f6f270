"""A check that reads data records its results."""

import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbtfs.check.subset import Subset, parse_subset
from cbtfs.cli.main import main
from cbtfs.core.ids import PackId
from cbtfs.store.quarantine import load_quarantine
from cbtfs.store.repository import reading, writing
from tests.mount.mount_process import corrupt
from tests.scenarios.repository_history import History, block, image

PACKS = st.dictionaries(
    st.integers(0, 1 << 128).map(lambda n: PackId(f"{n % (1 << 128):032x}")), st.integers(1, 100)
)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "repo")


@pytest.fixture
def check(history: History, capsys: pytest.CaptureFixture[str]) -> Any:
    def check(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = main([f"--repo={history.path}", "check", "--json", *arguments])
        return code, json.loads(capsys.readouterr().out)

    return check


def test_a_full_read_dates_the_points_that_are_whole(history: History, check: Any) -> None:
    bad, good = history.add(image(1, 2)), history.add(image(3))
    corrupt(history.path, block(2))

    code, document = check("--read-data")

    assert code == 21
    assert document["verified"][bad] is None
    assert document["verified"][good] is not None
    with reading(history.path) as repository:
        assert repository.points.load_state(good)[0].verified == document["verified"][good]
    assert check()[1]["verified"] == document["verified"]


def test_corrupt_frames_are_quarantined(history: History, check: Any) -> None:
    history.add(image(1, 2))
    corrupt(history.path, block(2))

    assert check("--read-data")[1]["quarantined"] == 1

    assert len(load_quarantine(history.path)) == 1
    with writing(history.path) as repository:
        assert len(repository.quarantined()) == 1


def test_a_check_beside_a_writer_says_that_nothing_was_written_down(
    history: History, check: Any
) -> None:
    history.add(image(1))
    lock = history.path / "locks" / "writer"
    with lock.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, document = check("--read-data")

    assert code == 0
    assert "locked" in document["unrecorded"]


def test_a_part_of_the_data_reads_only_that(history: History, check: Any) -> None:
    for n in range(1, 9):
        history.add(image(*range(n * 100, n * 100 + 40)))

    parts = [check("--read-data-subset", f"{n}/3")[1]["chunks_read"] for n in (1, 2, 3)]

    assert sum(parts) == check("--read-data")[1]["chunks_read"] == 320
    assert check("--read-data-subset", "0%")[1]["chunks_read"] == 0
    assert check("--read-data-subset", "1G")[1]["chunks_read"] == 320


@pytest.mark.parametrize("part", ["5%", "99%", "10G", "1/2", None])
def test_less_than_all_data_is_no_date_of_a_verification(
    history: History, check: Any, part: str | None
) -> None:
    """A size verifies no point, even one above the total; a part waits for the other parts."""
    point = history.add(image(1, 2))
    code, document = check(*(["--read-data-subset", part] if part else []))

    assert code == 0
    assert document["verified"] == {point: None}
    with reading(history.path) as repository:
        assert repository.points.load_state(point)[0].verified is None


def test_all_data_is_a_date_of_a_verification_however_it_is_named(
    history: History, check: Any
) -> None:
    point = history.add(image(1, 2))

    assert check("--read-data-subset", "100%")[1]["verified"][point] is not None


@given(PACKS, st.integers(1, 9))
def test_all_parts_cover_every_pack_exactly_once(packs: dict[PackId, int], parts: int) -> None:
    chosen = [Subset(part=n + 1, parts=parts).choose(packs) for n in range(parts)]

    assert sorted(pack for part in chosen for pack in part) == sorted(packs)


@given(PACKS, st.floats(0, 1))
def test_a_share_takes_at_least_so_much(packs: dict[PackId, int], share: float) -> None:
    chosen = Subset(share=share).choose(packs)

    assert sum(packs[pack] for pack in chosen) >= sum(packs.values()) * share - 1e-6


@pytest.mark.parametrize("text", ["", "5", "0/3", "4/3", "101%", "-1%", "1/0", "G"])
def test_an_invalid_subset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid --read-data-subset|does not exist|share"):
        parse_subset(text)
