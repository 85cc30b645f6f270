"""NTFS by libfsntfs. Its journal is not replayed: files are shown as they are on the volume."""

from collections.abc import Iterator
from typing import Final

import pyfsntfs

from cbtfs.files.protocol import Entry, Kind
from cbtfs.files.yal.volume import VolumeFile, YalEntry, whole

_READ_ONLY: Final = 0x1
_REPARSE_POINT: Final = 0x400
_COMPRESSED: Final = 0x800
_ENCRYPTED: Final = 0x4000
_SPARSE_EXTENT: Final = 0x1
_FIRST_FILE: Final = 24
"""Records before it are those of NTFS itself: $MFT, $LogFile, and others."""
_ROOT: Final = 5
_RECORD_MASK: Final = (1 << 48) - 1
_EPOCH: Final = 116_444_736_000_000_000
"""1970 in units of 100 ns since 1601."""
_MAX_STREAM: Final = 64 << 10


class Ntfs:
    """The format NTFS."""

    kind = "ntfs"

    def open(self, file: VolumeFile) -> YalEntry:
        """Open the volume, and return its root directory."""
        self._volume = pyfsntfs.volume()
        self._volume.open_file_object(file)
        return self._volume.get_root_directory()

    def names(self, directory: YalEntry) -> Iterator[tuple[str, YalEntry]]:
        """Yield the files in a directory, without those of NTFS itself."""
        for number in range(directory.number_of_sub_file_entries):
            file = directory.get_sub_file_entry(number)
            record = file.file_reference & _RECORD_MASK
            if record >= _FIRST_FILE or not file.name.startswith("$"):
                yield file.name, file

    def entry(self, name: str, file: YalEntry) -> Entry:
        """Return the facts of a file. Owners of NTFS are not numbers: they are shown as 0."""
        flags = file.file_attribute_flags or 0
        is_directory = file.has_directory_entries_index()
        defect, kind = None, Kind.DIRECTORY if is_directory else Kind.FILE
        if flags & _REPARSE_POINT:
            if file.symbolic_link_target is not None:
                kind = Kind.LINK
            else:
                defect = "a reparse point, whose content is stored by a driver of the guest"
        if flags & _ENCRYPTED and kind is Kind.FILE:
            defect = "encrypted by the guest"
        size = file.size if kind is Kind.FILE and file.has_default_data_stream() else 0
        mode = 0o755 if is_directory else 0o444 if flags & _READ_ONLY else 0o644
        return Entry(
            name,
            kind,
            file.file_reference & _RECORD_MASK,
            mode,
            size=size,
            accessed_ns=_time(file.get_access_time_as_integer()),
            modified_ns=_time(file.get_modification_time_as_integer()),
            changed_ns=_time(file.get_entry_modification_time_as_integer()),
            created_ns=_time(file.get_creation_time_as_integer()),
            defect=defect,
        )

    def extents(self, file: YalEntry, size: int) -> Iterator[tuple[int, int, int | None]]:
        """Yield the parts that are not holes. The library reads them: it knows what is valid."""
        if (file.file_attribute_flags or 0) & _COMPRESSED or not file.number_of_extents:
            yield from whole(size)
            return
        at = 0
        for number in range(file.number_of_extents):
            _, length, flags = file.get_extent(number)
            if not flags & _SPARSE_EXTENT:
                yield at, length, None
            at += length

    def target(self, file: YalEntry) -> str:
        """Return the text of a symbolic link or a junction, as the guest has it."""
        return str(file.symbolic_link_target)

    def attributes(self, file: YalEntry) -> dict[str, bytes]:
        """Return the alternate data streams of at most 64 KiB, as ntfs-3g names them."""
        found = {}
        for number in range(file.number_of_alternate_data_streams):
            stream = file.get_alternate_data_stream(number)
            if stream.size <= _MAX_STREAM:
                found[f"user.{stream.name}"] = stream.read_buffer_at_offset(stream.size, 0)
        return found


def _time(units: int | None) -> int:
    return ((units or _EPOCH) - _EPOCH) * 100
