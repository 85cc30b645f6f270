"""The choice of a parser for the file system of a volume."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

from cbtfs.errors import CbtfsError
from cbtfs.files.engine_parse.engine import CALL_SECONDS, ParsedFileSystem
from cbtfs.files.engine_parse.processes import ParsersByKind
from cbtfs.files.probe.find import probe
from cbtfs.files.probe.values import Kind, State
from cbtfs.files.protocol import FileSystem, FileSystemUnsupported
from cbtfs.files.volumes import Volume

PARSERS: Final[Mapping[Kind, str]] = {
    **dict.fromkeys((Kind.EXT2, Kind.EXT3, Kind.EXT4), "ext"),
    **dict.fromkeys((Kind.FAT12, Kind.FAT16, Kind.FAT32), "fat"),
    Kind.NTFS: "ntfs",
}
"""Parsers of the engine `parse` by the content of a volume."""
_MODULES: Final = {"ntfs": "pyfsntfs"}
"""Modules of the extra `files`, by the parser that needs them."""
_WITHOUT_REPLAY: Final = frozenset({"ntfs", "fat"})
"""Parsers that show the files as they are on the volume."""
_AS_IT_IS: Final = "read without replay"


def open_file_system(
    volume: Volume, seconds: float = CALL_SECONDS, servers: ParsersByKind | None = None
) -> FileSystem:
    """Open the file system of a volume.

    *servers*: fork the process of the parser; None starts an interpreter.

    Raises:
        FileSystemUnsupported: no engine can read it.
        FileSystemDamaged: it is damaged.
    """
    probed = probe(volume.source)
    kind = probed.kind
    parser = PARSERS.get(kind)
    if parser is None:
        raise FileSystemUnsupported(
            f"volume {volume.name} has {kind}, which the engine parse does not read"
        )
    module = _MODULES.get(parser)
    if module is not None and find_spec(module) is None:
        raise FileSystemUnsupported(
            f"volume {volume.name} has {kind}: install cbtfs with the extra 'files': "
            "pip install 'cbtfs[files]'"
        )
    try:
        file_system = ParsedFileSystem(
            volume.source, parser, seconds, None if servers is None else servers[parser]
        )
        if parser in _WITHOUT_REPLAY:
            note = _AS_IT_IS
            if probed.state is not State.CLEAN:
                note += f", so the last changes may be missing: {probed.detail}"
            file_system.notes = [*file_system.notes, note]
        return file_system
    except CbtfsError as exc:
        raise type(exc)(f"volume {volume.name}: {exc}") from exc
