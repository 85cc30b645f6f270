"""Encoder of FastLZ, levels 1 and 2. Source: the description of the block format by its author.

A block is a sequence of literal runs and matches. The upper three bits of its first byte hold the
level less 1, so the first instruction is a literal run.
"""

from typing import Final

SHORTEST: Final = 16
"""Bytes below which nothing is compressed."""
LITERALS: Final = 32
NEAR: Final = 8191
FAR: Final = 65535
KEY: Final = 4


def compress(data: bytes, level: int) -> bytes:
    """Return *data* as a FastLZ block of level 1 or 2."""
    output = bytearray()
    known: dict[bytes, int] = {}
    reach = NEAR if level == 1 else NEAR + FAR
    literals = position = misses = 0
    last = len(data) - KEY
    while position < last:
        key = data[position : position + KEY]
        earlier = known.get(key, -1)
        known[key] = position
        if earlier < 0 or position - earlier - 1 > reach:
            misses += 1
            position += 1 + (misses >> 5)
            continue
        length = KEY + _common(data, earlier + KEY, position + KEY)
        _literals(output, data[literals:position])
        _match(output, length, position - earlier - 1, level)
        position += length
        literals, misses = position, 0
    _literals(output, data[literals:])
    output[0] |= (level - 1) << 5
    return bytes(output)


def _common(data: bytes, left: int, right: int) -> int:
    """Return the length of the common run at two positions, left before right."""
    start, size = right, 64
    while right < len(data):
        size = min(size, len(data) - right)
        if data[left : left + size] == data[right : right + size]:
            left, right, size = left + size, right + size, size * 2
        elif size == 1:
            break
        else:
            size = max(1, size // 2)
    return right - start


def _literals(output: bytearray, data: bytes) -> None:
    for start in range(0, len(data), LITERALS):
        run = data[start : start + LITERALS]
        output.append(len(run) - 1)
        output += run


def _match(output: bytearray, length: int, distance: int, level: int) -> None:
    """Append a match; *distance* is 0 for the byte just before."""
    if level == 1:
        while length > 264:
            _instruction(output, 258, distance, long_limit=True)
            length -= 258
    _instruction(output, length, distance, long_limit=level == 1)


def _instruction(output: bytearray, length: int, distance: int, *, long_limit: bool) -> None:
    is_far = not long_limit and distance >= NEAR
    near = NEAR if is_far else distance
    if length < 9:
        output.append((length - 2) << 5 | near >> 8)
    else:
        output.append(7 << 5 | near >> 8)
        rest = length - 9
        while not long_limit and rest >= 255:
            output.append(255)
            rest -= 255
        output.append(rest)
    output.append(near & 255)
    if is_far:
        output += (distance - NEAR).to_bytes(2, "big")
