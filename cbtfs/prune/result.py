"""Result of a prune, and its progress."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

StartProgress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Callback with the name and the total of a step; its context is the callback for progress."""


def no_progress(step: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Report no progress."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class PruneResult:
    """Result of a prune; of a dry run, the expected result."""

    is_dry_run: bool
    points: int
    """Remaining points."""
    leased: int
    """Forgotten points with a lease or a pin; their objects stay, too."""
    size_before: int
    """Bytes in packs."""
    freed_bytes: int
    unused_bytes: int
    """Unused bytes in packs that were not rewritten."""
    rewritten_bytes: int
    dead_objects: int
    dead_bytes: int
    shared_objects: int
    """Objects of forgotten points that other points reference, too."""
    shared_bytes: int
    removed_packs: int
    forgotten: int
    """Number of removed manifests of forgotten points."""
    damaged: tuple[str, ...] = ()
    """Errors of packs that could not be read and stay unchanged."""
    postponed_packs: int = 0
    """Packs that were not rewritten because free space was low."""
    postponed_bytes: int = 0
    """Bytes that rewriting the postponed packs would free."""
    needed_bytes: int = 0
    """Free space that the next prune needs to continue; 0 if no pack was postponed."""
    rekeyed_files: int = 0
    """Files that were encrypted again under the newest key epoch."""
    old_packs: int = 0
    """Packs that are still encrypted under an older key epoch, after a prune that rekeys."""
    waiting_packs: int = 0
    """Unused packs that are not deleted yet, because runs of other writers may use them."""
    waiting_writers: int = 0
    """Writers that these packs wait for."""
