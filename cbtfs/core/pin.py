"""A pin: the record in a repository that an overlay needs a restore point (docs/format.md)."""

from dataclasses import asdict, dataclass
from typing import Final, NewType

from cbtfs.core.fields import id_of, integer, moment, text
from cbtfs.core.ids import PointId
from cbtfs.core.names import printable
from cbtfs.core.sealed import seal, unseal

PinId = NewType("PinId", str)
"""32 lower-case hex digits, random."""
PIN_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Pin:
    """An overlay and the point that it needs."""

    id: PinId
    point: PointId
    name: str
    """Name of the overlay."""
    host: str
    """Host that has the overlay."""
    directory: str
    """Absolute path of the directory of the overlay on that host."""
    created: str
    """RFC 3339, UTC."""

    @property
    def described(self) -> str:
        """Name, host and directory of the overlay, for a message."""
        return f"overlay {printable(self.name)} on {printable(self.host)} in {self.shown}"

    @property
    def shown(self) -> str:
        """Directory of the overlay, for a message."""
        return printable(self.directory)


def encode_pin(pin: Pin) -> bytes:
    return seal({"format": PIN_FORMAT, **asdict(pin)})


def decode_pin(data: bytes) -> Pin:
    """Return the pin in a sealed file; ValueError with the reason if it is invalid."""
    document = unseal(data)
    version = integer(document, "format")
    if version != PIN_FORMAT:
        raise ValueError(f"pin format {version}")
    return Pin(
        PinId(id_of(document, "id")),
        PointId(id_of(document, "point")),
        text(document, "name"),
        text(document, "host"),
        text(document, "directory"),
        moment(document, "created"),
    )
