"""Repositories with shared writers for tests, and a switch that makes those of all tests so."""

from dataclasses import replace
from pathlib import Path

from cbtfs.core.settings import SHARED_WRITERS, Settings
from cbtfs.store import repository
from cbtfs.store.settings import new_settings
from tests.make_points import BLOCK

_create = repository.create_repository


def new_shared(path: Path, block_size: int = BLOCK) -> Path:
    """Create an empty repository with shared writers at *path*."""
    _create(path, new_settings(block_size, 1, is_shared=True))
    return path


def share_all() -> None:
    """Give every repository that a test creates in its process shared writers."""

    def create(path: Path, settings: Settings, keys: repository.NewKeys | None = None) -> None:
        required = dict.fromkeys((*settings.required, SHARED_WRITERS))
        _create(path, replace(settings, required=tuple(required)), keys)

    repository.create_repository = create
