"""The choice of an engine for each volume of a point."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cbtfs.core.manifest import Manifest
from cbtfs.core.names import printable
from cbtfs.errors import PointNotFound, UsageError
from cbtfs.files.engine_parse.processes import ParsersByKind
from cbtfs.files.parsing import open_file_system
from cbtfs.files.placing import Identity
from cbtfs.files.probe.find import probe
from cbtfs.files.probe.values import Kind
from cbtfs.files.protocol import FileSystem, FileSystemUnsupported
from cbtfs.files.volumes import Nothing, Volume, Volumes

if TYPE_CHECKING:
    from cbtfs.files.engine_appliance.engine import Appliance, ApplianceVolume

_OPAQUE: Final = frozenset({Kind.LUKS, Kind.MD, Kind.UNKNOWN})
"""Contents of which the appliance knows more than the probe."""
_FOR_NO_ENGINE: Final = frozenset(
    {Kind.SWAP, Kind.LVM, Kind.MD, Kind.JOURNAL, Kind.REFS, Kind.BITLOCKER}
)
_KINDS: Final = {
    **{kind.value: kind for kind in Kind},
    "vfat": Kind.FAT32,
    "crypto_LUKS": Kind.LUKS,
}
"""Contents by the names of blkid."""


class Engine(StrEnum):
    """Values of --engine."""

    AUTO = "auto"
    PARSE = "parse"
    APPLIANCE = "appliance"


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines that a command uses."""

    wanted: Engine = Engine.PARSE
    start: Callable[[Manifest], AbstractContextManager["Appliance"]] | None = None
    """Start an appliance with the disks of a point. Raises UsageError if a package is missing."""
    has_keys: bool = False
    """Whether *start* has keys for encrypted volumes."""
    servers: ParsersByKind | None = None
    """Servers that fork the processes of parsers; None starts an interpreter for each volume."""

    def may_find_more(self, volumes: Volumes, kinds: Iterable[Kind]) -> bool:
        """Return whether an appliance can have file systems that the slices do not show.

        *kinds*: contents of the slices.
        """
        if self.wanted is Engine.PARSE or self.start is None:
            return False
        hidden = {Kind.MD, Kind.BTRFS, Kind.XFS}
        if self.has_keys:
            hidden.add(Kind.LUKS)
        return bool(volumes.omitted) or not hidden.isdisjoint(kinds)


class Opener:
    """File systems of a point, each opened once, by the engine that fits."""

    def __init__(self, engines: Engines, manifest: Manifest, seconds: float) -> None:
        self._engines = engines
        self._seconds = seconds
        self._manifest = manifest
        self._opened: dict[str, FileSystem] = {}
        self._stack = ExitStack()
        self._appliance: Appliance | None = None

    def __call__(self, volume: Volume) -> FileSystem:
        """Return the file system of a volume.

        Raises:
            FileSystemUnsupported: no engine can read it.
            CbtfsError: it is damaged, or an engine fails.
        """
        if volume.name in self._opened:
            return self._opened[volume.name]
        if self.is_parsing and not isinstance(volume.source, Nothing):
            try:
                return self.parsed(volume)
            except FileSystemUnsupported as exc:
                if self._engines.wanted is Engine.PARSE:
                    raise
                file_system = self._instead(volume, exc)
        else:
            file_system = self._in_appliance(volume)
        self._opened[volume.name] = file_system
        return file_system

    @property
    def is_parsing(self) -> bool:
        """Whether the engine parse is used where it can."""
        return self._engines.wanted is not Engine.APPLIANCE

    def parsed(self, volume: Volume) -> FileSystem:
        """Return the file system of a volume by the engine parse; see __call__()."""
        file_system = self._opened.get(volume.name)
        if file_system is None:
            file_system = self._opened[volume.name] = open_file_system(
                volume, self._seconds, self._engines.servers
            )
        return file_system

    def _instead(self, volume: Volume, refusal: FileSystemUnsupported) -> FileSystem:
        """Return a file system that the engine parse refused."""
        kind = probe(volume.source).kind
        if kind in _FOR_NO_ENGINE:
            raise refusal
        if kind is Kind.LUKS and not self._engines.has_keys:
            raise FileSystemUnsupported(
                f"volume {volume.name} is encrypted (LUKS): give its key with --luks-key-file FILE"
            ) from refusal
        try:
            file_system = self._in_appliance(volume)
        except UsageError as exc:
            raise FileSystemUnsupported(f"{refusal}; {exc}") from exc
        file_system.notes = [*file_system.notes, f"not by the engine parse: {refusal}"]
        return file_system

    def has_in_appliance(self, volume: Volume) -> bool:
        """Return whether the appliance, which starts at the first call, has a volume."""
        name = volume.device or volume.name
        return any(known.name == name for known in self.appliance().volumes)

    def _in_appliance(self, volume: Volume) -> FileSystem:
        appliance = self.appliance()
        name = volume.device or volume.name
        names = [known.name for known in appliance.volumes]
        if name not in names:
            raise FileSystemUnsupported(
                f"volume {name} has no file system in the appliance; it has {', '.join(names)}"
            )
        try:
            return appliance.open(name, volume.source.size, volume.subvolume)
        except FileSystemUnsupported as exc:
            raise FileSystemUnsupported(f"volume {name}: {exc}") from exc

    def appliance(self) -> "Appliance":
        """Return the appliance of the point, which starts at the first call.

        Raises:
            UsageError: a package is missing.
            EngineFailed: it does not start.
        """
        if self._appliance is None:
            if self._engines.start is None:
                raise UsageError("the engine appliance is not available here")
            self._appliance = self._stack.enter_context(self._engines.start(self._manifest))
        return self._appliance

    def close(self) -> None:
        """End all engines."""
        for file_system in self._opened.values():
            file_system.close()
        self._opened.clear()
        self._stack.close()
        self._appliance = None

    def may_find_more(self, volumes: Volumes, kinds: Iterable[Kind]) -> bool:
        """Return whether an appliance can have file systems that the slices do not show."""
        return self._engines.may_find_more(volumes, kinds)

    def named(self, volumes: Volumes, name: str) -> Volume:
        """Return the volume with that name; an appliance finds those that are no slices.

        Of a btrfs, the top is the root, so all its subvolumes are directories.

        Raises:
            PointNotFound: no volume has it; the error lists the names.
        """
        try:
            return replace(volumes.named(name), subvolume="")
        except PointNotFound as exc:
            if not self.may_find_more(volumes, (probe(v.source).kind for v in volumes.shown)):
                raise
            names = [volume.name for volume in self.appliance().volumes]
            if name in names:
                return Volume(name, Nothing(), subvolume="")
            raise PointNotFound(
                f"no volume {printable(name)!r} in this point; the appliance has "
                f"{', '.join(names) or 'none'}",
                names,
            ) from exc


def merged(known: Sequence[Identity], found: Sequence["ApplianceVolume"]) -> list[Identity]:
    """Return the identities of slices with what an appliance knows, and of its other volumes."""
    by_name = {volume.name: volume for volume in found}
    identities = []
    for identity in known:
        volume = by_name.pop(identity.name, None)
        if volume is not None and identity.kind in _OPAQUE:
            identity = replace(identity, kind=_kind(volume), uuid=volume.uuid, label=volume.label)
        identities.append(identity)
    return identities + [
        Identity(volume.name, _kind(volume), volume.uuid, volume.label)
        for volume in by_name.values()
    ]


def _kind(volume: "ApplianceVolume") -> Kind:
    return _KINDS.get(volume.kind, Kind.UNKNOWN)
