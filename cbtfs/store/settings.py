"""The settings of a repository: made for a new one, loaded from repository.json."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cbtfs.core.moment import format_moment
from cbtfs.core.settings import Settings, UnknownFormat, decode_settings
from cbtfs.errors import DataCorrupt, FormatNotSupported, RepositoryNotFound
from cbtfs.store.file_system import refuse_bad_place, refuse_missing_folders
from cbtfs.store.files import load_file
from cbtfs.store.identity import new_id

SETTINGS: Final = "repository.json"
_MAX_BYTES: Final = 1 << 16


def new_settings(block_size: int, level: int) -> Settings:
    """Settings of a repository that is made now; ValueError if they make no sense."""
    created = format_moment(datetime.now(UTC).replace(microsecond=0))
    return Settings(new_id(), created, block_size=block_size, level=level)


def load_settings(path: Path) -> Settings:
    """What repository.json says; RepositoryNotFound, FormatNotSupported, DataCorrupt.

    UsageError if it is where no repository may be.
    """
    refuse_bad_place(path)
    try:
        settings = decode_settings(load_file(path / SETTINGS, _MAX_BYTES))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise RepositoryNotFound(
            f"no repository at {path}: name one with --repo or CBTFS_REPO, or make it with init"
        ) from exc
    except UnknownFormat as exc:
        raise FormatNotSupported(
            f"the repository {path} needs {exc}, which this version of cbtfs does not know: "
            "use a newer one"
        ) from exc
    except ValueError as exc:
        raise DataCorrupt(f"{path / SETTINGS} is damaged: {exc}; put back a copy of it") from exc
    refuse_missing_folders(path)
    return settings
