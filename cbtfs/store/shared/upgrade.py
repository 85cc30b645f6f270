"""Upgrade of a repository with one writer to one with shared writers, in a local directory."""

from pathlib import Path


def finish_upgrade(path: Path) -> None:
    """Rename files that an interrupted upgrade has left under their old names."""
