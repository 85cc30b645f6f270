"""The content of repository.json: the facts of a repository (docs/format.md)."""

from dataclasses import dataclass
from typing import Any, Final

from cbtfs.core.fields import id_of, integer, mapping, text
from cbtfs.core.manifest import is_block_size
from cbtfs.core.sealed import seal, unseal

FORMAT: Final = "cbtfs repository"
FORMAT_VERSION: Final = 1
PINS: Final = "pins"
"""Required feature of a repository in which overlays have pinned points (store/pins)."""
KEYED_DIGESTS: Final = "keyed-digests"
"""Required feature of a repository whose digests have a key (store/digest)."""
ENCRYPTION: Final = "encryption-1"
"""Required feature of an encrypted repository (store/encryption)."""
SHARED_WRITERS: Final = "shared-writers-1"
"""Required feature of a repository that several programs may write to at once (store/shared)."""
CAPTURE: Final = "capture-1"
"""Required feature of an encrypted repository that has capture keys: packs are signed."""
OBJECTS: Final = "objects-1"
"""Required feature of a repository in a bucket (store/backend/remote)."""
KNOWN_FEATURES: Final = frozenset(
    {PINS, KEYED_DIGESTS, ENCRYPTION, SHARED_WRITERS, CAPTURE, OBJECTS}
)
"""Required features that this program understands."""
DEFAULT_BLOCK_BYTES: Final = 64 << 10
DIGEST: Final = "blake3-256"
_KEY_SLOT: Final = "repository"
"""Value of digest.key_slot if digests are keyed: the key follows from that of the repository."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The identity of a repository and the defaults for new disks."""

    id: str
    created: str
    """RFC 3339, UTC."""
    block_size: int = DEFAULT_BLOCK_BYTES
    level: int = 1
    """zstd level."""
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def is_encrypted(self) -> bool:
        return ENCRYPTION in self.required

    @property
    def is_remote(self) -> bool:
        """Whether the repository is in a bucket."""
        return OBJECTS in self.required

    @property
    def is_shared(self) -> bool:
        """Whether several programs may write at once."""
        return SHARED_WRITERS in self.required

    @property
    def has_signatures(self) -> bool:
        """Whether new packs are signed, because there are capture keys."""
        return CAPTURE in self.required

    def __post_init__(self) -> None:
        if not is_block_size(self.block_size):
            raise ValueError(f"block size {self.block_size} is not a power of two, 4 KiB to 1 MiB")
        if not 1 <= self.level <= 19:
            raise ValueError(f"compression level {self.level} is not between 1 and 19")


class UnknownFormat(ValueError):
    """Raised for a repository with another format version or an unknown required feature."""


def encode_settings(settings: Settings) -> bytes:
    return seal(
        {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "id": settings.id,
            "created": settings.created,
            "features": {"required": settings.required, "optional": settings.optional},
            "digest": {
                "algorithm": DIGEST,
                "key_slot": _KEY_SLOT if KEYED_DIGESTS in settings.required else None,
            },
            "defaults": {"block_size": settings.block_size, "level": settings.level},
        }
    )


def _strings(document: Any, key: str) -> tuple[str, ...]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"member {key!r} is not an array of strings")
    return tuple(value)


def decode_settings(data: bytes) -> Settings:
    """Return the settings in repository.json; ValueError if damaged, UnknownFormat if newer."""
    document = unseal(data)
    if document.get("format") != FORMAT:
        raise ValueError("it does not describe a cbtfs repository")
    version = integer(document, "version")
    if version != FORMAT_VERSION:
        raise UnknownFormat(f"format version {version}")
    features = mapping(document, "features")
    required = _strings(features, "required")
    unknown = sorted(set(required) - KNOWN_FEATURES)
    if unknown:
        raise UnknownFormat(f"required feature {', '.join(unknown)}")
    digest = mapping(document, "digest")
    slot = _KEY_SLOT if KEYED_DIGESTS in required else None
    if digest.get("algorithm") != DIGEST or digest.get("key_slot") != slot:
        raise UnknownFormat(f"digest {digest.get('algorithm')}, key {digest.get('key_slot')}")
    if (ENCRYPTION in required) != (KEYED_DIGESTS in required):
        raise UnknownFormat(f"of {ENCRYPTION} and {KEYED_DIGESTS} only one")
    if CAPTURE in required and ENCRYPTION not in required:
        raise UnknownFormat(f"{CAPTURE} without {ENCRYPTION}")
    if CAPTURE in required and SHARED_WRITERS in required:
        raise UnknownFormat(f"{CAPTURE} with {SHARED_WRITERS}")
    defaults = mapping(document, "defaults")
    return Settings(
        id=id_of(document, "id"),
        created=text(document, "created"),
        block_size=integer(defaults, "block_size"),
        level=integer(defaults, "level"),
        required=required,
        optional=_strings(features, "optional"),
    )
