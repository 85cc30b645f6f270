"""Indexes of points of a real ext4, and searches, compared with a walk over all files."""

import random
from collections.abc import Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cbtfs.check.check import check
from cbtfs.core.file_index import decode_header
from cbtfs.core.ids import PointId
from cbtfs.errors import DataCorrupt
from cbtfs.files.index import build
from cbtfs.files.index.build import build_index
from cbtfs.files.index.names import directory_item, matches, search_for
from cbtfs.files.index.search import search
from cbtfs.files.point import PointFiles, open_files
from cbtfs.files.protocol import FORMAT_OF_KIND
from cbtfs.files.walk import LeftOut, walk
from cbtfs.forget import to_forget
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.store.file_indexes import FileIndexes, IndexMissing
from cbtfs.store.repository import writing
from tests.copies.pair import Pair
from tests.files.test_diff import POINTS, SHAPES, history

PATTERNS = (
    "*",
    "new-*",
    "*-1",
    "file-[0-3]",
    "*[!0-9]",
    "dev?ce",
    "etc",
    "*e*",
    "nothing",
    "[]x]*",
)
Row = tuple[str, int, int, int, int]


def walked(files: PointFiles) -> dict[Row, str]:
    """Return the names of all files but the root, by what an index has."""
    left_out = LeftOut()
    found = {
        (
            file.path,
            FORMAT_OF_KIND[file.entry.kind] | file.entry.mode,
            file.entry.inode,
            file.entry.size,
            file.entry.modified_ns,
        ): file.entry.name
        for file in walk(files.tree, files.tree.find("/"), left_out)
        if file.path != "/"
    }
    assert not left_out.items
    return found


def by_walk(walks: Sequence[dict[Row, str]], pattern: str) -> set[tuple[Row, int, int, int]]:
    """Return each version with its first and last point, and the number of points."""
    rows = {row for walk in walks for row, name in walk.items() if fnmatchcase(name, pattern)}
    found = set()
    for row in rows:
        at = [number for number, walk in enumerate(walks) if row in walk]
        found.add((row, at[0], at[-1], len(at)))
    return found


@pytest.mark.mounts
def test_a_search_finds_what_a_walk_over_all_points_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_LEAST", 3)
    monkeypatch.setattr(build, "_MOST", 7)
    with history(tmp_path, SHAPES["journal"], 5) as (repository, manifests), ExitStack() as stack:
        indexes = stack.enter_context(FileIndexes(repository.path))
        files = [stack.enter_context(open_files(repository, m, None)) for m in manifests]
        walks = [walked(point) for point in files]
        for point, manifest, walk_ in zip(files, manifests, walks, strict=True):
            data, header = build_index(point, manifest.point)
            indexes.put(manifest.point, data)
            assert header.files == len(walk_)
        ids = [manifest.point for manifest in manifests]
        for pattern in PATTERNS:
            searched = search(indexes, ids, pattern)
            found = {(tuple(f.version), f.first, f.last, f.points) for f in searched.found}

            assert found == by_walk(walks, pattern), pattern
            assert not searched.unindexed
        assert len(search(indexes, ids, None).found) == len(by_walk(walks, "*"))
        assert len(decode_header(indexes.load(ids[-1])).header.segments) > 2
    _damage(repository.path, ids)


def _damage(path: Path, ids: list[PointId]) -> None:
    """A damaged index is reported, and never trusted."""
    source = random.Random(1)
    with FileIndexes(path) as indexes:
        whole, original = search(indexes, ids, "*").found, indexes.load(ids[-1])
        for at in [*range(0, 24, 3), *(source.randrange(len(original)) for _ in range(30))]:
            damaged = bytearray(original)
            damaged[at] ^= 1 << source.randrange(8)
            indexes.put(ids[-1], bytes(damaged))
            searched = search(indexes, ids, "*")
            assert [point for point, _ in searched.unindexed] in ([ids[-1]], [])
            if not searched.unindexed:
                # Parts that equal those of another index were read there.
                assert searched.found == whole
            with pytest.raises(DataCorrupt):
                indexes.verify(ids[-1])
        problems = check(path, read_data=False).problems
        assert [problem.kind for problem in problems] == ["index"]
        assert ids[-1][:12] in problems[0].what
        for end in (0, 11, len(original) - 1):
            indexes.put(ids[-1], original[:end])
            with pytest.raises(DataCorrupt):
                indexes.verify(ids[-1])
        indexes.put(ids[-1], original)
        assert search(indexes, ids, "*").found == whole
        assert check(path, read_data=False).problems == []
    _remove(path, ids)


def _remove(path: Path, ids: list[PointId]) -> None:
    """An index stays while its point does, a forgotten one included until a prune."""
    with writing(path) as repository, FileIndexes(path) as indexes:
        to_forget(repository, [ids[0]])
        repository.forget([ids[0]])
        assert indexes.ids() == {*ids}
        (path / "indexes" / f"{ids[1]}.tmp").write_bytes(b"of a crash")
        prune(repository, PruneLimits())
        assert indexes.ids() == {*ids[1:]}
        assert sorted(file.name for file in (path / "indexes").iterdir()) == sorted(ids[1:])
        searched = search(indexes, ids, "*")
        assert [point for point, _ in searched.unindexed] == [ids[0]]
        assert isinstance(searched.unindexed[0][1], IndexMissing)
    assert len(ids) == POINTS


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=6
).filter(lambda name: name not in (".", ".."))
PATTERN_TEXT = st.text("ab*?[]!-é.\n^\\", max_size=8)


@given(
    st.dictionaries(
        st.lists(NAMES, max_size=3).map(lambda parts: "/" + "/".join(parts)),
        st.lists(NAMES, min_size=1, max_size=5, unique=True),
        min_size=1,
        max_size=5,
    ),
    st.one_of(PATTERN_TEXT, NAMES.map(lambda name: "*" + name), NAMES),
)
@example({"/": ["a", "\udcff\udcfe"], "/a": ["b.docx"], "/ab": [".docx"]}, "*.docx")
@example({"/": ["x"]}, "[!a]")
@example({"/": ["a-", "b"]}, "[b-a-]*")
def test_names_match_as_in_the_shell(tree: dict[str, list[str]], pattern: str) -> None:
    items, before, expected, number = list[str](), "", [], 0
    for path in sorted(tree, key=lambda path: path.split("/")):
        items += [directory_item(path, before), *tree[path]]
        before = path
        for name in tree[path]:
            if fnmatchcase(name, pattern):
                expected.append((number, f"{path.rstrip('/')}/{name}"))
            number += 1
    text = "\0".join(items).encode("utf-8", "surrogateescape")

    assert [tuple(match) for match in matches(text, search_for(pattern))] == expected


def test_a_directory_that_is_larger_than_a_segment_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_LEAST", 10)
    monkeypatch.setattr(build, "_MOST", 50)
    names = [f"file-{number}" for number in range(1000)]
    cuts = list(build._cuts(names))
    moved = list(build._cuts(["another", *names]))

    assert [start for start, _ in cuts[1:]] == [end for _, end in cuts[:-1]]
    assert (cuts[0][0], cuts[-1][1]) == (0, 1000)
    assert all(end - start <= 50 for start, end in cuts)
    assert len({names[start] for start, _ in cuts} & {names[s - 1] for s, _ in moved[1:]}) > 5


def test_a_copy_has_the_intact_indexes(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    ids = [pair.source.add(bytes([n]) * 4096) for n in (1, 2, 3)]
    with FileIndexes(pair.source.path) as indexes:
        for point in ids:
            indexes.put(point, build.empty_index(point, DataCorrupt("no files"))[0])
        indexes.put(ids[1], b"damaged")
    pair.copy()

    with FileIndexes(pair.target) as copied:
        assert copied.ids() == {ids[0], ids[2]}
        assert copied.verify(ids[0]).header.left_out == (("/", "no files"),)


def test_a_repository_without_indexes_has_none(tmp_path: Path) -> None:
    with FileIndexes(tmp_path) as indexes:
        assert indexes.ids() == set()
        assert indexes.keep([]) == 0
        with pytest.raises(IndexMissing):
            indexes.layout(PointId("0" * 32))


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "indexes").symlink_to("elsewhere")
    with FileIndexes(tmp_path) as indexes, pytest.raises(DataCorrupt):
        indexes.ids()
