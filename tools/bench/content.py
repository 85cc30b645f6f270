"""Content of test disks: the same bytes for the same seed on every machine."""

import random
from collections.abc import Sequence
from functools import cache
from typing import Final

BLOCK: Final = 65536
"""Block size of the repository and cluster size of the qcow2 images: the default of each."""

_MIX: Final = ("zero", "zero", "text", "random")
"""Half zeros, a quarter text, a quarter incompressible bytes."""
_RUN_BYTES: Final = 1 << 20
_VOCABULARY: Final = 5000
_PHRASES: Final = 1 << 16
_PHRASE_WORDS: Final = 3
_PHRASE_BYTES: Final = 12
"""Minimum length of a phrase; it determines the number of phrases that fill a block."""


class Content:
    """Generator of the blocks of one disk; the order of the calls determines the bytes."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._phrases = _phrases()

    def kinds(self, size: int) -> list[str]:
        """Return the kind of each block of a disk of *size* bytes: runs of 1 MiB, exact shares."""
        runs = [_MIX[index % len(_MIX)] for index in range(-(-size // _RUN_BYTES))]
        self._random.shuffle(runs)
        return [kind for kind in runs for _ in range(_RUN_BYTES // BLOCK)][: size // BLOCK]

    def some_of(self, blocks: Sequence[int], count: int) -> list[int]:
        """Return a random sample of *count* different blocks, in ascending order."""
        return sorted(self._random.sample(blocks, count))

    def mixed(self) -> bytes:
        """Return a new block of a random kind of the mix."""
        return self.block(self._random.choice(_MIX))

    def block(self, kind: str) -> bytes:
        """Return a new block of the given kind: zero, text or random."""
        if kind == "zero":
            return bytes(BLOCK)
        if kind == "random":
            return self._random.randbytes(BLOCK)
        count = BLOCK // _PHRASE_BYTES
        picks = memoryview(self._random.randbytes(count * 2)).cast("H")
        return b"".join(map(self._phrases.__getitem__, picks))[:BLOCK]


@cache
def _phrases() -> Sequence[bytes]:
    """Return phrases of three words from a small vocabulary with a Zipf-like distribution."""
    dice = random.Random("phrases")
    syllables = [a + b for a in "bcdfghklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er")]
    words = ["".join(dice.choices(syllables, k=dice.randint(2, 4))) for _ in range(_VOCABULARY)]
    weights = [1 / (rank + 3) for rank in range(_VOCABULARY)]
    drawn = iter(dice.choices(words, weights, k=_PHRASES * _PHRASE_WORDS))
    ends = dice.choices((" ", " ", ", ", "\n"), k=_PHRASES)
    phrases = (" ".join(words) + end for *words, end in zip(drawn, drawn, drawn, ends, strict=True))
    return [phrase.ljust(_PHRASE_BYTES).encode() for phrase in phrases]
