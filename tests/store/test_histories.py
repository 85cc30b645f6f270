"""Histories of a repository with losses and crashes, against byte strings."""

import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cbtfs.core.manifest import Manifest, decode_manifest
from cbtfs.errors import CbtfsError
from cbtfs.store.repository import reading, writing
from tests.docs import independent_reader
from tests.make_points import BLOCK, MEMORY, commit_point, new_repository, read_image
from tests.store.crashes import CATCH_UP, COMMIT, Crash, Step, crashing

CONTENTS: Final = [
    bytes(BLOCK),
    b"text" * (BLOCK // 4),
    b"more" * (BLOCK // 4),
    random.Random(1).randbytes(BLOCK),
]
MAX_BLOCKS: Final = 140
SIZES: Final = [0, 1, BLOCK, 5 * BLOCK - 1, 64 * BLOCK, 64 * BLOCK + 1, 100 * BLOCK, 140 * BLOCK]
VMS: Final = ["web", "db"]


class Change(NamedTuple):
    """Writes of a guest between two ingests."""

    size: int | None
    writes: dict[int, int]
    """Number of a content by block."""


CHANGES: Final = st.builds(
    Change,
    st.none() | st.sampled_from(SIZES),
    st.dictionaries(st.integers(0, MAX_BLOCKS - 1), st.integers(0, len(CONTENTS) - 1)),
)


class Repositories(RuleBasedStateMachine):
    """One repository, the current content of its disks, and that of each committed point."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.path = new_repository(self.folder / "repo")
        self.disks = {vm: bytearray(130 * BLOCK) for vm in VMS}
        self.committed: dict[str, bytes] = {}
        """Content of each VM's disk at its newest point."""
        self.points: list[tuple[Manifest, bytes]] = []
        self.stash: list[tuple[Path, Path]] = []
        self.old_catalog: Path | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # Actions of guests and ingests

    @rule(vm=st.sampled_from(VMS), change=CHANGES, is_full=st.booleans())
    def ingest(self, vm: str, change: Change, is_full: bool) -> None:
        self.change(vm, change)
        self.commit(vm, is_full=is_full)

    @rule(
        vm=st.sampled_from(VMS),
        change=CHANGES,
        is_full=st.booleans(),
        step=st.sampled_from(COMMIT),
        after=st.booleans(),
        spared=st.integers(0, 2),
    )
    def crash(
        self, vm: str, change: Change, is_full: bool, step: Step, after: bool, spared: int
    ) -> None:
        self.change(vm, change)
        with suppress(Crash), crashing(step, after=after, spared=spared):
            self.commit(vm, is_full=is_full)

    @rule(step=st.sampled_from(CATCH_UP), after=st.booleans(), spared=st.integers(0, 2))
    def crash_while_catching_up(self, step: Step, after: bool, spared: int) -> None:
        with suppress(Crash), crashing(step, after=after, spared=spared), writing(self.path):
            pass

    def change(self, vm: str, change: Change) -> None:
        disk = self.disks[vm]
        if change.size is not None:
            del disk[change.size :]
            disk.extend(bytes(change.size - len(disk)))
        for block, content in change.writes.items():
            room = min(BLOCK, len(disk) - block * BLOCK)
            if room > 0:
                disk[block * BLOCK : block * BLOCK + room] = CONTENTS[content][:room]

    def commit(self, vm: str, *, is_full: bool) -> None:
        """Commit a point. It fails if its base is damaged; it counts once its manifest exists."""
        image, before = bytes(self.disks[vm]), self.committed.get(vm, b"")
        blocks = range(0, len(image), BLOCK)
        changed = [at // BLOCK for at in blocks if image[at:][:BLOCK] != before[at:][:BLOCK]]
        there = self.manifests()
        try:
            with suppress(CbtfsError), writing(self.path) as repository:
                commit_point(
                    repository,
                    {"disk": image},
                    vm=vm,
                    changed=None if is_full else {"disk": changed},
                    pack_bytes=3 * BLOCK,
                )
        finally:
            for name in self.manifests() - there:
                manifest = decode_manifest((self.path / "points" / name).read_bytes())
                self.points.append((manifest, image))
                self.committed[vm] = image

    def manifests(self) -> set[str]:
        return {path.name for path in self.path.glob("points/*") if "." not in path.name}

    # Faults

    @rule()
    def delete_catalog(self) -> None:
        shutil.rmtree(self.path / "catalog", ignore_errors=True)

    @rule()
    def keep_catalog(self) -> None:
        if (self.path / "catalog").exists():
            self.old_catalog = Path(tempfile.mkdtemp(dir=self.folder)) / "catalog"
            shutil.copytree(self.path / "catalog", self.old_catalog)

    @precondition(lambda self: self.old_catalog is not None)
    @rule()
    def put_back_catalog(self) -> None:
        assert self.old_catalog is not None
        self.delete_catalog()
        shutil.copytree(self.old_catalog, self.path / "catalog")

    @rule(share=st.floats(0, 1))
    def truncate_catalog(self, share: float) -> None:
        data = self.path / "catalog" / "data.mdb"
        if data.exists():
            with data.open("r+b") as file:
                file.truncate(int(data.stat().st_size * share))

    @rule(data=st.data(), is_noticed=st.booleans())
    def lose_pack(self, data: st.DataObject, is_noticed: bool) -> None:
        packs = sorted(self.path.glob("packs/*/" + "?" * 32))
        if packs:
            pack = packs[data.draw(st.integers(0, len(packs) - 1))]
            kept = self.folder / f"{len(self.stash)}-{pack.name}"
            pack.rename(kept)
            self.stash.append((kept, pack))
        if is_noticed:
            self.every_point_whose_objects_stand_is_read()

    @precondition(lambda self: self.stash)
    @rule()
    def put_back_pack(self) -> None:
        kept, pack = self.stash.pop()
        kept.rename(pack)
        self.every_point_whose_objects_stand_is_read()

    # Invariants

    def readable(self, manifest: Manifest) -> bytes | None:
        """Return the image by the independent reader; None if an object is missing."""
        image = self.folder / "image"
        try:
            independent_reader.write_image(self.path, manifest.point, "disk", image)
        except independent_reader.Damaged:
            return None
        return image.read_bytes()

    def read(self, is_whole: bool) -> None:
        with reading(self.path) as repository:
            for manifest, image in self.points:
                (disk,) = manifest.disks
                try:
                    content: bytes | None = read_image(repository, disk)
                except CbtfsError:
                    content = None
                if content is not None or (is_whole and self.readable(manifest) is not None):
                    assert content == image

    @invariant()
    def no_reader_is_told_a_wrong_byte(self) -> None:
        with suppress(CbtfsError):
            self.read(is_whole=False)

    @rule()
    def every_point_whose_objects_stand_is_read(self) -> None:
        with writing(self.path) as repository, repository.catalog.view() as view:
            assert set(view.point_ids()) == {manifest.point for manifest, _ in self.points}
        self.read(is_whole=True)


Repositories.TestCase.settings = settings(max_examples=15, stateful_step_count=12)
TestRepositories = Repositories.TestCase
