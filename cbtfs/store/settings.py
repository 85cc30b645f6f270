"""Settings of a repository: created by init, loaded from repository.json."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cbtfs.core.moment import format_moment
from cbtfs.core.settings import (
    ENCRYPTION,
    KEYED_DIGESTS,
    OBJECTS,
    SHARED_WRITERS,
    Settings,
    UnknownFormat,
    encode_settings,
)
from cbtfs.errors import DataCorrupt, FormatNotSupported, RepositoryNotFound
from cbtfs.store.backend.layout import SETTINGS, save_record
from cbtfs.store.backend.remote import REMOTE, is_remote
from cbtfs.store.encryption.ring import load_settings_file
from cbtfs.store.file_system import refuse_missing_folders, refuse_unsuitable
from cbtfs.store.identity import new_id

__all__ = ["SETTINGS", "add_feature", "load_settings", "new_settings"]


def new_settings(
    block_size: int,
    level: int,
    *,
    is_encrypted: bool = False,
    is_shared: bool = False,
    is_remote: bool = False,
) -> Settings:
    """Return settings of a new repository; ValueError if they are invalid."""
    created = format_moment(datetime.now(UTC).replace(microsecond=0))
    required = (ENCRYPTION, KEYED_DIGESTS) if is_encrypted else ()
    if is_shared or is_remote:
        required = (*required, SHARED_WRITERS)
    if is_remote:
        required = (*required, OBJECTS)
    return Settings(new_id(), created, block_size=block_size, level=level, required=required)


def add_feature(path: Path, feature: str) -> None:
    """Add a required feature. The caller holds the lock of points/, so that none is lost."""
    settings = load_settings(path)
    if feature not in settings.required:
        settings = replace(settings, required=(*settings.required, feature))
        save_record(path, SETTINGS, encode_settings(settings))


def load_settings(path: Path) -> Settings:
    """Load repository.json.

    Raises:
        RepositoryNotFound: it does not exist.
        FormatNotSupported: it requires a newer version of cbtfs.
        DataCorrupt: it is damaged, or packs/ or points/ is missing.
        UsageError: the file system cannot hold a repository.
    """
    refuse_unsuitable(path)
    try:
        settings = load_settings_file(path)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise RepositoryNotFound(
            f"no repository at {path}: set --repo or CBTFS_REPO, or create one with init"
        ) from exc
    except UnknownFormat as exc:
        raise FormatNotSupported(
            f"the repository {path} needs {exc}, which this version of cbtfs does not support: "
            "use a newer version"
        ) from exc
    except ValueError as exc:
        raise DataCorrupt(f"{path / SETTINGS} is damaged: {exc}; restore it from a copy") from exc
    if settings.is_remote != is_remote(path):
        raise FormatNotSupported(
            f"{path} is a copy of a repository in a bucket: name the bucket itself"
            if settings.is_remote
            else f"{path / REMOTE} names a bucket, but the repository is in a local directory"
        )
    if not settings.is_remote:
        refuse_missing_folders(path)
    return settings
