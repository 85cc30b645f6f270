"""Capture keys write content that they cannot read, and others store it again.

CBTFS_ROLE_HISTORIES sets the number of random histories.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest

from cbtfs import native
from cbtfs.check.check import check
from cbtfs.check.record import record
from cbtfs.check.report import CheckReport
from cbtfs.check.subset import Subset
from cbtfs.core.frame import Kind
from cbtfs.core.ids import Digest, PackId, PointId
from cbtfs.core.manifest import Manifest
from cbtfs.core.proof import Proof
from cbtfs.core.rolefile import Role, RoleFile
from cbtfs.core.settings import CAPTURE, encode_settings
from cbtfs.errors import CbtfsError, ChunkMissing, DataCorrupt, KeyUnavailable, StoreFailed
from cbtfs.listing import points
from cbtfs.native import Chunks
from cbtfs.prove.point import Proven
from cbtfs.prove.record import record as record_proofs
from cbtfs.prune.prune import prune
from cbtfs.prune.select import PruneLimits
from cbtfs.reader import Reader
from cbtfs.repair import repair
from cbtfs.store import capture_keys, trusted
from cbtfs.store.backend.layout import open_packs
from cbtfs.store.capture_keys import allow_capture_keys
from cbtfs.store.codec import Encoder
from cbtfs.store.digest import Digester
from cbtfs.store.encryption import ring
from cbtfs.store.encryption.credentials import Credentials, use
from cbtfs.store.encryption.files import open_file
from cbtfs.store.encryption.keys import Keys
from cbtfs.store.encryption.rotate import rotate
from cbtfs.store.encryption.signatures import Signer
from cbtfs.store.encryption.slots import Master
from cbtfs.store.file_indexes import FileIndexes
from cbtfs.store.identity import new_pack_id
from cbtfs.store.pack import Pack, PackWriter
from cbtfs.store.packs import open_pack_folder
from cbtfs.store.repository import reading, writing
from cbtfs.store.settings import SETTINGS, load_settings
from cbtfs.store.trusted import load_trusted, save_trusted
from tests.encrypted import (
    DIGEST_KEY,
    create_encrypted,
    encrypted_settings,
    forget_clients,
    write_key,
)
from tests.make_points import BLOCK, add_point, read_point
from tests.roles import acting, create_with_capture_keys, role_of

HISTORIES: Final = int(os.environ.get("CBTFS_ROLE_HISTORIES", "3"))
UNVERIFIED: Final = Subset(is_unverified=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "repo"


@pytest.fixture
def master(path: Path) -> Master:
    return create_with_capture_keys(path)


def noise(seed: int, blocks: int) -> bytes:
    return random.Random(seed).randbytes(blocks * BLOCK)


def blocks_of(image: bytes) -> Iterable[bytes]:
    return (image[at : at + BLOCK] for at in range(0, len(image), BLOCK))


def verify(path: Path, subset: Subset = UNVERIFIED) -> CheckReport:
    """Read the unverified packs, and record the result."""
    report = check(path, read_data=False, subset=subset)
    record(path, report, subset, lock_wait=0)
    return report


def stored(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("packs/*/*"))


class ForgedSigner(Signer):
    """Signs with its own key, in the name of another one."""

    def __init__(self, seed: bytes, name: bytes) -> None:
        super().__init__(seed)
        self.public = name


Forge = Callable[[Keys], Keys]
Planted = tuple[Kind, int, Digest, bytes]
"""Kind, level and digest of an object, and the content in its frame."""
FORGERIES: Final[dict[str, Forge]] = {
    "signed by the capture key": lambda keys: keys,
    "not signed": lambda keys: keys.signing(False),
    "in the name of a reader": lambda keys: replace(
        keys, signer=ForgedSigner(keys.signer.seed, keys.of(keys.epoch).signer)
    ),
}


def plant(path: Path, keys: Keys, objects: Iterable[Planted], name: PackId | None = None) -> PackId:
    """Write a pack as the holder of *keys* can, whose frames have digests of their choice."""
    name = new_pack_id() if name is None else name
    writer = PackWriter(name, open_packs(path).upload(name), keys)
    encoder = Encoder()
    for kind, level, digest, junk in objects:
        writer.append(encoder.encode(kind, level, digest, junk))
    writer.close()
    return name


def junk_chunks(image: bytes) -> list[Planted]:
    """Return junk under the digests of all blocks of *image*."""
    digester = Digester(DIGEST_KEY)
    return [(Kind.CHUNK, 0, digester.chunk(b), bytes([7]) * BLOCK) for b in blocks_of(image)]


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("rebuilds", [False, True])
def test_junk_under_valid_digests_is_stored_again_by_others(
    path: Path, master: Master, forge: Forge, rebuilds: bool
) -> None:
    image = noise(1, 70)
    with acting(role_of(master)) as keys:
        plant(path, forge(keys), junk_chunks(image))
    if rebuilds:
        repair(path)
    before = stored(path)

    point = add_point(path, {"disk": image})

    assert stored(path) > before + len(image)
    assert read_point(path, point) == {"disk": image}
    repair(path)
    assert read_point(path, point) == {"disk": image}
    with acting(role_of(master)):  # Another capture key counts what a reader has written.
        before = stored(path)
        add_point(path, {"disk": image}, vm="other")
        assert stored(path) == before
    with writing(path) as repository:
        prune(repository, PruneLimits(0.0))
    assert read_point(path, point) == {"disk": image}
    assert check(path, read_data=True).problems == []


def test_junk_that_comes_later_changes_nothing(path: Path, master: Master) -> None:
    image = noise(2, 70)
    point = add_point(path, {"disk": image})
    with acting(role_of(master)) as keys:
        plant(path, keys, junk_chunks(image))
        add_point(path, {"disk": noise(3, 1)}, vm="other")  # Catches the catalog up.

    assert read_point(path, point) == {"disk": image}
    repair(path)
    assert read_point(path, point) == {"disk": image}


def test_a_junk_node_is_never_used(path: Path, master: Master) -> None:
    image = noise(4, 64)
    with reading(path) as repository:
        digester = repository.digester
    leaf = b"".join(digester.chunk(block) for block in blocks_of(image))
    junk = b"".join(digester.chunk(block) for block in blocks_of(noise(5, 64)))
    with acting(role_of(master)) as keys:
        node = digester.object(Kind.NODE, 1, leaf)
        plant(path, keys, [*junk_chunks(image), (Kind.NODE, 1, node, junk)])
    disk = replace(add_point(path, {"d": b"x"}, vm="d").disks[0], root=node, size=len(image))
    with pytest.raises(ChunkMissing), reading(path) as repository:
        Reader(repository).root(disk)

    point = add_point(path, {"disk": image})

    assert read_point(path, point) == {"disk": image}
    assert verify(path).problems != []
    repair(path)
    assert read_point(path, point) == {"disk": image}


def nodes_over(image: bytes) -> list[Planted]:
    """Return the nodes over an image of 128 blocks, the root last."""
    digester = Digester(DIGEST_KEY)
    digests = [digester.chunk(block) for block in blocks_of(image)]
    halves = [b"".join(digests[:64]), b"".join(digests[64:])]
    leaves = [digester.object(Kind.NODE, 1, half) for half in halves]
    root = b"".join(leaves).ljust(64 * 32, b"\0")
    nodes = [(Kind.NODE, 1, leaf, half) for leaf, half in zip(leaves, halves, strict=True)]
    return [*nodes, (Kind.NODE, 2, digester.object(Kind.NODE, 2, root), root)]


@pytest.mark.parametrize("role", Role)
def test_intact_nodes_over_junk_do_not_count(path: Path, master: Master, role: Role) -> None:
    """A reader verifies the pack of the nodes, and finds junk in that of the chunks."""
    image = noise(6, 128)
    with acting(role_of(master)) as keys:
        bad = plant(path, keys, junk_chunks(image))
        good = plant(path, keys, nodes_over(image))
    report = verify(path)
    assert {bad, good} <= report.unverified

    with nullcontext() if role is Role.ADMIN else acting(role_of(master, role)):
        point = add_point(path, {"disk": image})

    assert read_point(path, point) == {"disk": image}
    repair(path)
    if role is Role.CAPTURE:  # Until a check, two capture keys have trees with this root.
        verify(path)
    assert read_point(path, point) == {"disk": image}


def test_prune_does_not_sign_nodes_over_junk(path: Path, master: Master) -> None:
    """A pack that is rewritten counts, so nodes stay where they are until their chunks count."""
    image, dead = noise(19, 128), noise(20, 60)

    def forged(manifest: Manifest) -> Manifest:
        disk = replace(manifest.disks[0], root=nodes_over(image)[-1][2], size=len(image))
        return replace(manifest, disks=(disk,))

    with acting(role_of(master)) as keys:
        plant(path, keys, junk_chunks(image))
        pack = plant(path, keys, [*nodes_over(image), *junk_chunks(dead)])
        add_point(path, {"disk": b"x"}, vm="forged", change=forged)
    with writing(path) as repository:
        result = prune(repository, PruneLimits(0.0))
        assert (result.damaged, pack in repository.packs.ids()) == ((), True)
    with acting(role_of(master)):
        point = add_point(path, {"disk": image})

    assert read_point(path, point) == {"disk": image}


def test_a_capture_key_counts_its_own_packs_and_no_other_ones(path: Path, master: Master) -> None:
    image, mine, other = noise(7, 70), role_of(master), role_of(master)
    with acting(mine):
        add_point(path, {"disk": image})
        before = stored(path)
        add_point(path, {"disk": image}, vm="second")
        assert stored(path) == before
    with acting(other):
        add_point(path, {"disk": image}, vm="third")
        assert stored(path) > before + len(image)
        before = stored(path)
        add_point(path, {"disk": image}, vm="fourth")
        assert stored(path) == before
    with acting(mine):
        add_point(path, {"disk": image}, vm="fifth")
        assert stored(path) == before


def test_everyone_counts_what_a_reader_has_verified(path: Path, master: Master) -> None:
    image = noise(8, 70)
    with acting(role_of(master)):
        add_point(path, {"disk": image})
    with acting(role_of(master, Role.READ)):
        report = verify(path)
    before = stored(path)

    assert (report.problems, report.unverified) == ([], set())
    add_point(path, {"disk": image}, vm="second")
    with acting(role_of(master)):
        add_point(path, {"disk": image}, vm="third")
    assert stored(path) == before
    repair(path)
    add_point(path, {"disk": image}, vm="fourth")
    assert stored(path) == before


def test_packs_from_before_the_first_capture_key_count(tmp_path: Path) -> None:
    path, image = tmp_path / "repo", noise(9, 70)
    master = create_encrypted(path, encrypted_settings(BLOCK))
    add_point(path, {"disk": image})
    with writing(path) as repository:
        allow_capture_keys(repository)
    before = stored(path)

    for rebuilds in (False, True):
        if rebuilds:
            repair(path)
        add_point(path, {"disk": image}, vm=f"admin {rebuilds}")
        with acting(role_of(master)):
            add_point(path, {"disk": image}, vm=f"capture {rebuilds}")
    assert stored(path) == before


def test_a_record_that_a_capture_key_signed_or_changed_counts_nothing(
    path: Path, master: Master
) -> None:
    image = noise(10, 70)
    with acting(role_of(master)) as keys:
        pack = plant(path, keys, junk_chunks(image))
        with reading(path) as repository:
            identity, _ = repository.packs.open(pack).identity()
        save_trusted(path, replace(keys, role=Role.READ), {pack: identity})
        assert load_trusted(path, keys) == {}
    repair(path)
    point = add_point(path, {"disk": image})

    assert read_point(path, point) == {"disk": image}


def test_a_pack_in_place_of_a_verified_one_does_not_count(path: Path, master: Master) -> None:
    image = noise(11, 70)
    with acting(role_of(master)) as keys:
        pairs = zip(junk_chunks(image), blocks_of(image), strict=True)
        pack = plant(path, keys, [(*junk[:3], block) for junk, block in pairs])
    assert verify(path).unverified == set()
    with acting(role_of(master)) as keys, closing(open_pack_folder(path)) as packs:
        packs.path(pack).unlink()
        plant(path, keys, junk_chunks(image), pack)
    repair(path)

    point = add_point(path, {"disk": image})

    assert read_point(path, point) == {"disk": image}


def test_no_content_comes_out_with_a_capture_key(path: Path, master: Master) -> None:
    """Every function that decrypts is called with all keys of the role."""
    marker = b"MARKER-OF-CONTENT"
    text = b"".join((marker + b" %d " % n).ljust(BLOCK, b".") for n in range(40))
    image = text + (marker * BLOCK)[: 40 * BLOCK] + noise(12, 20) + marker.ljust(BLOCK)
    file, admin = role_of(master), {"admin": image}
    points = [add_point(path, admin, vm="admin")]
    with acting(file):
        points.append(add_point(path, {"disk": image[BLOCK:]}, vm="own"))
    out = list[bytes]()
    with acting(file) as keys:
        assert keys.of(1).private is None
        with reading(path) as repository:
            for point in points:
                disk = Reader(repository).disk(point.disks[0])
                with pytest.raises(KeyUnavailable):
                    disk.read(0, disk.size)
                for block in range(-(-disk.size // BLOCK)):
                    with pytest.raises(KeyUnavailable):
                        disk.reader.load_chunk(point.disks[0], block)
                for number, leaf in disk.leaves(0, disk.size):
                    assert leaf is not None
                    target = bytearray(64 * BLOCK)
                    for reader in (disk.reader.chunks, Chunks(0, None, False, keys.digest)):
                        reader.fill(leaf, BLOCK, 0, memoryview(target))
                    out += [bytes(target), str(number).encode()]
            for pack in repository.packs.ids():
                out += _decrypted(repository.packs.open(pack), keys, file)
        with reading(path) as repository:
            out += [repository.points.load_manifest(point.point) for point in points]

    assert sum(map(len, out)) > len(image)
    assert not any(marker in data for data in out)
    assert read_point(path, points[0]) == admin


def _decrypted(pack: Pack, keys: Keys, file: RoleFile) -> list[bytes]:
    """Return what the frames of a pack become with every key of a role."""
    out = list[bytes]()
    secrets = [bytes(32), keys.digest, file.seed, keys.signer.public]
    for of in file.epochs.values():
        secrets += [of.meta, of.public, of.signer]
    cipher = pack._cipher
    assert cipher is not None
    secrets += [cipher.native[32:64], cipher.wrapped[:32], cipher.wrapped[32:64]]
    data = pack._read(0, pack.size)
    out.append(data)
    for frame in pack.trailer():
        if frame.kind is Kind.CHUNK:
            with pytest.raises(KeyUnavailable):
                pack.load(frame)
            with pytest.raises(KeyUnavailable):
                pack.load_encoded(frame)
        for secret in secrets:
            known = cipher.native[:32] + secret + secret
            table = data[frame.payload_offset - frame.table_bytes : frame.end]
            head = native.open_header(cipher.native, frame.offset, data[frame.offset :])
            assert head is not None
            payload = native.open_payload(known, frame.offset, head, table)
            assert payload is None or frame.kind is Kind.NODE
            out.append(payload or b"")
    return out


def test_names_of_files_in_guests_are_content(path: Path, master: Master) -> None:
    point = add_point(path, {"disk": noise(13, 1)})
    with FileIndexes(path) as indexes:
        indexes.put(point.point, b"names of files")
        assert indexes.load(point.point) == b"names of files"
    with acting(role_of(master)), FileIndexes(path) as indexes:
        with pytest.raises(KeyUnavailable):
            indexes.load(point.point)
        with pytest.raises(KeyUnavailable):
            indexes.put(point.point, b"other names")
        assert check(path, read_data=False).problems == []
    with acting(role_of(master, Role.READ)), FileIndexes(path) as indexes:
        assert indexes.load(point.point) == b"names of files"


def test_indexes_from_before_the_first_capture_key_are_closed_to_it(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    master = create_encrypted(path, encrypted_settings(BLOCK))
    point = add_point(path, {"disk": noise(13, 1)})
    with FileIndexes(path) as indexes:
        indexes.put(point.point, b"names of files")
    for _ in range(2):  # The second time changes nothing.
        with writing(path) as repository:
            allow_capture_keys(repository)

    data = (path / "indexes" / point.point).read_bytes()
    name = f"indexes/{point.point}".encode()
    with acting(role_of(master)) as keys, pytest.raises(KeyUnavailable):
        open_file(keys, name, data)
    with pytest.raises(ValueError, match="tag"):
        open_file(keys.signing(False), name, data)
    with FileIndexes(path) as indexes:
        assert indexes.load(point.point) == b"names of files"


def test_an_index_begun_before_the_first_capture_key_is_closed_to_it(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    master = create_encrypted(path, encrypted_settings(BLOCK))
    points = [add_point(path, {"disk": noise(n, 1)}, vm=str(n)).point for n in (13, 14)]
    with FileIndexes(path) as indexes:
        indexes.put(points[0], b"names of files")
        with writing(path) as repository:
            allow_capture_keys(repository)
        indexes.put(points[1], b"names of files")

    data = (path / "indexes" / points[1]).read_bytes()
    with acting(role_of(master)) as keys, pytest.raises(ValueError, match="tag"):
        open_file(keys.signing(False), f"indexes/{points[1]}".encode(), data)


def proof_with(quote: str) -> Proof:
    now = "2026-11-29T12:00:00Z"
    text = f"level 3: root: ext4: e2fsck: {quote}"
    return Proof(2, now, now, "cbtfs", text, text, "panic", 5, (text,))


def test_records_of_proofs_quote_no_content(tmp_path: Path) -> None:
    """e2fsck names files of the guest, and a kernel that panics prints anything."""
    path, quote = tmp_path / "repo", "QUOTED-NAME-OF-A-FILE"
    master = create_encrypted(path, encrypted_settings(BLOCK))
    manifests = [add_point(path, {"disk": noise(n, 1)}, vm=str(n)) for n in (24, 25)]
    proofs = [proof_with(quote), proof_with(quote)]
    for manifest, proof in zip(manifests, proofs, strict=True):
        with reading(path) as repository, repository.catalog.view() as view:
            (point,) = points(view, manifest.vm.id)
        record_proofs(path, [Proven(point, proof)], lock_wait=0)
        with writing(path) as repository:
            allow_capture_keys(repository)

    with acting(role_of(master)), reading(path) as repository:
        for manifest in manifests:
            state, _ = repository.points.load_state(manifest.point)
            assert state.proof is not None
            assert quote not in str(state)
            assert str(state.proof.failure).startswith("level 3: not recorded")
            assert (state.proof.level, state.proof.verdict) == (2, "panic")


def without_feature(path: Path) -> None:
    """Remove the feature from the settings, as anybody can who may write to the repository."""
    settings = load_settings(path)
    required = tuple(name for name in settings.required if name != CAPTURE)
    (path / SETTINGS).write_bytes(encode_settings(replace(settings, required=required)))


def test_a_removed_feature_is_refused_by_a_client_that_has_seen_it(
    path: Path, master: Master
) -> None:
    image = noise(22, 70)
    with acting(role_of(master)) as keys:
        plant(path, keys.signing(False), junk_chunks(image))
    add_point(path, {"disk": b"x"}, vm="first")
    whole = (path / SETTINGS).read_bytes()
    without_feature(path)

    with pytest.raises(DataCorrupt, match="had capture keys when it was last used here"):
        add_point(path, {"disk": image})
    (path / SETTINGS).write_bytes(whole)
    point = add_point(path, {"disk": image})
    assert read_point(path, point) == {"disk": image}


def test_a_removed_feature_is_refused_by_a_new_client_that_finds_signed_packs(
    path: Path, master: Master
) -> None:
    with acting(role_of(master)):
        add_point(path, {"disk": noise(23, 9)})
    without_feature(path)
    forget_clients()
    ring._seen.clear()

    for change in (lambda: repair(path), lambda: check(path, read_data=False)):
        with pytest.raises(DataCorrupt, match="does not say that the repository has"):
            change()


def test_encrypted_keys_exchanged_between_packs_are_refused(path: Path, master: Master) -> None:
    with acting(role_of(master)):
        points = [add_point(path, {"disk": noise(n, 9)}, vm=str(n)) for n in (14, 15)]
    packs = sorted(path.glob("packs/*/*"), key=lambda file: file.stat().st_mtime_ns)
    one, two = (file.read_bytes() for file in packs)
    ends = [len(data) - 64 - 96 for data in (one, two)]
    swapped = bytearray(one)
    swapped[32:112] = two[32:112]
    swapped[ends[0] - 80 : ends[0]] = two[ends[1] - 80 : ends[1]]
    packs[0].write_bytes(swapped)

    with pytest.raises(CbtfsError):
        read_point(path, points[0])
    assert read_point(path, points[1])["disk"] == noise(15, 9)
    assert check(path, read_data=True).problems


def test_every_flipped_bit_of_a_signed_pack_is_refused(path: Path, master: Master) -> None:
    with acting(role_of(master)) as keys:
        point = add_point(path, {"disk": noise(16, 20) + b"text" * 9000})
    expected = read_point(path, point)
    (pack,) = path.glob("packs/*/*")
    data, rng, refused = pack.read_bytes(), random.Random(1), 0
    tail = len(data) - 64 - 96
    places = [rng.randrange(len(data)) for _ in range(30)] + [
        rng.randrange(tail, len(data)) for _ in range(40)
    ]

    for number, at in enumerate(places):
        pack.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        with acting(keys), reading(path) as repository:
            _, signer = repository.packs.open(PackId(pack.name)).identity()
            is_signed = signer == keys.signer.public
        assert not (is_signed and at >= tail and at < len(data) - 64)
        try:
            assert read_point(path, point) == expected
        except CbtfsError:
            refused += 1
        if number % 10 == 0:
            assert check(path, read_data=True).problems
    pack.write_bytes(data)

    assert refused > 5
    assert verify(path).unverified == set()


@pytest.mark.parametrize("step", ["save_record", "add_feature", "seal_indexes"])
def test_an_export_that_is_interrupted_may_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path, image = tmp_path / "repo", noise(21, 70)
    master = create_encrypted(path, encrypted_settings(BLOCK))
    first = add_point(path, {"disk": image})

    def fail(*_: object) -> None:
        raise StoreFailed("killed")

    module = trusted if step == "save_record" else capture_keys
    with monkeypatch.context() as patch, writing(path) as repository:
        patch.setattr(module, step, fail)
        with pytest.raises(StoreFailed):
            allow_capture_keys(repository)
    second = add_point(path, {"disk": image}, vm="between")
    with writing(path) as repository:
        allow_capture_keys(repository)
    before = stored(path)
    with acting(role_of(master)):
        add_point(path, {"disk": image}, vm="capture")

    assert stored(path) == before
    assert read_point(path, first) == read_point(path, second) == {"disk": image}


def test_packs_of_a_capture_key_are_rekeyed(path: Path, master: Master, tmp_path: Path) -> None:
    image, old = noise(17, 70), role_of(master)
    with acting(old):
        point = add_point(path, {"disk": image})
    use(Credentials(key_files=(write_key(tmp_path / "key"),)))
    try:
        with writing(path):
            rotate(path, master.repository, drops_others=False)
        with writing(path) as repository:
            result = prune(repository, PruneLimits(rekeys=True))
        before = stored(path)

        assert (result.old_packs, read_point(path, point)) == (0, {"disk": image})
        add_point(path, {"disk": image}, vm="second")  # The copies were verified.
        assert stored(path) == before
        with acting(old), pytest.raises(CbtfsError):
            read_point(path, point)
    finally:
        use(Credentials())
        ring.drop_all()


@dataclass
class History:
    """A random history of one repository: the images of all honest points are known."""

    path: Path
    master: Master
    rng: random.Random
    points: dict[PointId, tuple[Manifest, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roles = [role_of(self.master) for _ in range(3)]
        self.attacker = role_of(self.master)

    def image(self) -> bytes:
        return b"".join(noise(self.rng.randrange(30), 1) for _ in range(self.rng.randrange(1, 90)))

    def add(self) -> None:
        who, image = self.rng.randrange(4), self.image()
        vm = f"vm{who}.{self.rng.randrange(2)}"
        if who == 3:
            point = add_point(self.path, {"disk": image}, vm=vm, pack_bytes=30 * BLOCK)
        else:
            with acting(self.roles[who]):
                point = add_point(self.path, {"disk": image}, vm=vm, pack_bytes=30 * BLOCK)
        self.points[point.point] = point, image

    def attack(self) -> None:
        with acting(self.attacker) as keys:
            forge = self.rng.choice([*FORGERIES.values()])
            plant(self.path, forge(keys), junk_chunks(self.image()))

    def forget(self) -> None:
        if self.points:
            point = self.rng.choice(sorted(self.points))
            del self.points[point]
            with writing(self.path) as repository:
                repository.forget([point])

    def prune(self) -> None:
        with writing(self.path) as repository:
            prune(repository, PruneLimits(self.rng.choice([0.0, 0.3])), pack_bytes=30 * BLOCK)

    def verify(self) -> None:
        verify(self.path)

    def rebuild(self) -> None:
        who = self.rng.randrange(4)
        if who == 3:
            repair(self.path)
        else:
            with acting(self.roles[who]):
                repair(self.path)

    def step(self) -> None:
        names = ["add"] * 5 + ["attack"] * 2 + ["forget", "prune", "verify", "rebuild"]
        getattr(self, self.rng.choice(names))()


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_points_read_right_whatever_a_capture_key_plants(
    path: Path, master: Master, seed: int
) -> None:
    history = History(path, master, random.Random(seed))
    for _ in range(14):
        history.step()
        for point, image in history.points.values():
            assert read_point(path, point) == {"disk": image}


def test_a_copy_of_the_repository_is_read_without_its_catalog(
    path: Path, master: Master, tmp_path: Path
) -> None:
    image = noise(18, 70)
    with acting(role_of(master)):
        point = add_point(path, {"disk": image})
        copy = tmp_path / "copy"
        shutil.copytree(path, copy, ignore=shutil.ignore_patterns("catalog"))
        with writing(copy) as repository:  # A capture key rebuilds a catalog.
            assert repository.findings.packs_added == 1

    assert read_point(copy, point) == {"disk": image}
