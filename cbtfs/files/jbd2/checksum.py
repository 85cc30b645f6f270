"""The two checksums of journals: CRC-32C, and CRC-32 in big-endian bit order."""

import zlib
from typing import Final

from cbtfs.native import crc32c

SEED: Final = 0xFFFFFFFF
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def crc32c_without(data: bytes, at: int, value: int = SEED) -> int:
    """Return the CRC-32C of *data* with zeros in place of the four bytes at *at*."""
    value = crc32c(data[:at], value)
    return crc32c(data[at + 4 :], crc32c(bytes(4), value))


class BigEndianCrc32:
    """CRC-32 of the polynomial 0x04c11db7, most significant bit first, without a final inversion.

    zlib computes the same polynomial in the reversed bit order, so data and result are reversed.
    """

    def __init__(self) -> None:
        self._reflected = 0

    def update(self, data: bytes) -> None:
        """Add *data*."""
        self._reflected = zlib.crc32(data.translate(_REVERSED), self._reflected)

    @property
    def value(self) -> int:
        reflected = (self._reflected ^ 0xFFFFFFFF).to_bytes(4, "little")
        return int.from_bytes(reflected.translate(_REVERSED), "big")
