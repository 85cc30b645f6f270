"""Used blocks that an answer about allocation omits: the same ones in every answer."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final

from tools.vsim.model.span import Span

UNIT: Final = 65536
"""Bytes of the blocks that are omitted."""


def is_hidden(block: int, share: float) -> bool:
    """Return whether *block* is among the *share* of blocks that are omitted."""
    digest = hashlib.sha256(f"allocation/{block}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def shown(spans: Iterable[Span], share: float) -> Iterator[Span]:
    """Yield *spans* without the omitted blocks, ascending; adjacent spans may touch."""
    for span in spans:
        if not share:
            yield span
            continue
        for block in range(span.start // UNIT, -(-span.end // UNIT)):
            if not is_hidden(block, share):
                yield Span(max(span.start, block * UNIT), min(span.end, (block + 1) * UNIT))
