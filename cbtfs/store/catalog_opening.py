"""Opening of the catalog for the writer: verified, caught up with the folders, or rebuilt."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cbtfs.store.catalog import gate
from cbtfs.store.catalog.catalog import Catalog
from cbtfs.store.catalog.records import CatalogDamaged
from cbtfs.store.catchup import Findings, catch_up
from cbtfs.store.files import exchange, finish_exchange, remove_folder, sync_folder
from cbtfs.store.packs import PackFolder, open_pack_folder
from cbtfs.store.point_folder import open_point_folder
from cbtfs.store.points import Points
from cbtfs.store.quarantine import load_quarantine
from cbtfs.store.storing import storing
from cbtfs.store.turns import Turns

if TYPE_CHECKING:
    from cbtfs.store.rebuild import Progress

log = logging.getLogger(__name__)

CATALOG: Final = "catalog"
TURNS: Final = "locks/catalog"
"""File whose lock gives turns at the catalog, in a repository with shared writers."""
_DAMAGED: Final = CATALOG + ".damaged"


def open_catalog(path: Path, *, must_verify: bool) -> tuple[Catalog, Findings]:
    """Open the catalog of the repository at *path*, caught up; rebuild it if it is damaged.

    Only for the writer.
    """
    folder = path / CATALOG
    with _folders(path) as (packs, points):
        problem = gate.verify(folder) if must_verify and (folder / gate.DATA).exists() else None
        try:
            if problem is not None:
                raise CatalogDamaged(problem)
            catalog = Catalog(
                folder, is_writable=True, digester=packs.digester, signer=packs.own_signer
            )
            try:
                _log_rebuild(catalog, packs)
                return catalog, catch_up(catalog, packs, points, load_quarantine(path))
            except BaseException:
                catalog.close()
                raise
        except CatalogDamaged as exc:
            log.warning("%s; rebuilding it", exc)
            return _rebuild(path, packs, points)


def open_shared_catalog(path: Path, turns: Turns, *, is_suspect: bool) -> tuple[Catalog, Findings]:
    """Open the catalog of a repository with shared writers, caught up; rebuild it if damaged."""
    from cbtfs.store.shared.follow import follow
    from cbtfs.store.shared.places import open_places
    from cbtfs.store.shared.points import SharedPoints

    folder = path / CATALOG
    with (
        closing(open_pack_folder(path)) as packs,
        closing(SharedPoints(open_places(path))) as points,
    ):
        try:
            with turns.held() as turn:
                finish_exchange(folder)
                must_verify = (is_suspect or turn.is_unsure) and (folder / gate.DATA).exists()
                problem = gate.verify(folder) if must_verify else None
                if problem is not None:
                    raise CatalogDamaged(problem)
                catalog = Catalog(folder, is_writable=True, digester=packs.digester, turns=turns)
                turn.is_unsure = False
            try:
                _log_rebuild(catalog, packs)
                return catalog, follow(catalog, packs, points, load_quarantine(path))[0]
            except BaseException:
                catalog.close()
                raise
        except CatalogDamaged as exc:
            log.warning("%s; rebuilding it", exc)
            with turns.held() as turn:
                rebuilt = _rebuild(path, packs, points, turns=turns)
                turn.is_unsure = False
                return rebuilt


def replace_catalog(
    path: Path, level: int, progress: Progress, turns: Turns | None = None
) -> Findings:
    """Replace the catalog by one that is rebuilt from packs and points. Only for the writer.

    Nodes that only the old catalog still knows are written to new packs first, at zstd *level*.
    *turns* are those at the catalog, if there are several writers.
    """
    from cbtfs.store.node_repair import rewrite_lost_nodes

    with _folders(path) as (packs, points):
        packs.remove_leftovers()
        points.remove_leftovers()
        rewritten = rewrite_lost_nodes(path / CATALOG, packs, level)
        catalog, findings = _rebuild(path, packs, points, progress, turns)
    catalog.close()
    findings.nodes_mended = rewritten
    remove_folder(path / _DAMAGED)
    return findings


@contextmanager
def _folders(path: Path) -> Iterator[tuple[PackFolder, Points]]:
    with (
        closing(open_pack_folder(path)) as packs,
        closing(open_point_folder(path)) as points,
    ):
        yield packs, points


def _log_rebuild(catalog: Catalog, packs: PackFolder) -> None:
    """Log that an empty catalog is filled from all packs, which may take long."""
    with catalog.view() as view:
        is_empty = not view.pack_numbers()
    if is_empty and (count := len(packs.ids())):
        log.warning("the catalog is missing or empty: rebuilding it from %d packs", count)


def _rebuild(
    path: Path,
    packs: PackFolder,
    points: Points,
    progress: Progress = lambda _: None,
    turns: Turns | None = None,
) -> tuple[Catalog, Findings]:
    """Rebuild the catalog from packs and points, and keep the old one under another name.

    Points that the old catalog knows and that are missing from points/ are copied.
    """
    from cbtfs.store.rebuild import RebuildInput, rebuild
    from cbtfs.store.salvage import salvage

    salvaged = salvage(path / CATALOG)
    new, aside = path / (CATALOG + ".new"), path / _DAMAGED
    with storing("the catalog"):
        remove_folder(new)
    catalog = Catalog(new, is_writable=True, digester=packs.digester, signer=packs.own_signer)
    try:
        source = RebuildInput(packs, points, load_quarantine(path), salvaged)
        findings = rebuild(catalog, source, progress)
    finally:
        catalog.close()
    with storing("the catalog"):
        sync_folder(new)
        exchange(new, path / CATALOG)
        remove_folder(aside)
        if new.exists():
            os.rename(new, aside)
        sync_folder(path)
    catalog = Catalog(
        path / CATALOG,
        is_writable=True,
        digester=packs.digester,
        turns=turns,
        signer=packs.own_signer,
    )
    return catalog, findings
