"""Objects of the real store as values of the model, and the numbers of their contents."""

from pathlib import Path
from typing import Final

from cbtfs.core.blockmap import FANOUT
from cbtfs.core.frame import Kind as ObjectKind
from cbtfs.core.ids import Digest
from cbtfs.core.manifest import manifest_of
from cbtfs.core.pin import decode_pin
from cbtfs.core.sealed import unseal
from cbtfs.core.shared import (
    VERDICT,
    decode_candidates,
    decode_entry,
    decode_hold,
    decode_verdict,
    split_numbered,
    split_prune,
    tombstone_in,
)
from cbtfs.store.digest import UNKEYED, node_content
from cbtfs.store.pack import Pack as StoredPack
from tools.model import store as model
from tools.model.forest import Forest
from tools.model.real.opened import OpenedBytes
from tools.model.store import Key, Prefix, Value

BLOCK: Final = 4096
_KINDS: Final = {kind.name.lower(): kind for kind in model.Kind}


def number_of(text: str) -> int:
    """Return the number of an id."""
    return int(text, 16)


def key_of(prefix: Prefix, name: str) -> Key:
    """Return the key of the model for the name of an object."""
    part = split_prune(name)
    if part is not None:
        kind = model.VERDICT if part[1] == VERDICT else model.CANDIDATES
        return prefix, (number_of(part[0]), kind)
    entry = split_numbered(name)
    if entry is not None:
        return prefix, (number_of(entry[0]), entry[1])
    return prefix, number_of(name)


class Contents:
    """The objects of a forest with their real bytes: chunks, leaves and roots."""

    def __init__(self, forest: Forest) -> None:
        self.forest = forest
        self._digests: dict[int, Digest] = {}
        self._numbers: dict[Digest, int] = {}

    def level(self, number: int) -> int:
        children = self.forest.children(number)
        return 1 + self.level(children[0]) if children else 0

    def digest(self, number: int) -> Digest:
        digest = self._digests.get(number)
        if digest is None:
            level = self.level(number)
            if level == 0:
                digest = UNKEYED.chunk(self.chunk(number))
            else:
                digest = UNKEYED.object(ObjectKind.NODE, level, self.node(number))
            self._digests[number] = digest
            self._numbers[digest] = number
        return digest

    def chunk(self, number: int) -> bytes:
        return (number + 1).to_bytes(4, "big") * (BLOCK // 4)

    def node(self, number: int) -> bytes:
        children = [self.digest(child) for child in self.forest.children(number)]
        return node_content([*children, *([None] * (FANOUT - len(children)))])

    def number(self, digest: Digest) -> int:
        return self._numbers[digest]

    def value(self, prefix: Prefix, name: str, data: bytes) -> Value:
        """Return the value of the model for an object."""
        if prefix is Prefix.PACKS:
            return self._pack(name, data)
        document = unseal(data)
        if prefix is Prefix.POINTS:
            tombstone = tombstone_in(document)
            if tombstone is not None:
                return model.Tombstone(number_of(tombstone.by))
            return model.Manifest(self.number(manifest_of(document).disks[0].root))
        if prefix is Prefix.FORGOTTEN:
            entry = decode_entry(data)
            return model.Entry(_KINDS[entry.entry.value], number_of(entry.token))
        if prefix is Prefix.PRUNES:
            return self._of_prune(name, data)
        if prefix is Prefix.PINS:
            return model.Use(number_of(decode_pin(data).point))
        if prefix is Prefix.HOLDS:
            return model.Use(number_of(decode_hold(data).run))
        return model.Intent()

    def _of_prune(self, name: str, data: bytes) -> Value:
        if name.endswith(VERDICT):
            verdict = decode_verdict(data)
            packs = frozenset(map(number_of, verdict.packs))
            return model.Verdict(packs, frozenset(map(number_of, verdict.runs)))
        return model.Candidates(frozenset(map(number_of, decode_candidates(data).packs)))

    def _pack(self, name: str, data: bytes) -> Value:
        frames = StoredPack(OpenedBytes(Path("/memory", name), data)).trailer()
        return model.Pack(tuple(self.number(frame.digest) for frame in frames))
