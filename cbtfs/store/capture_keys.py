"""Makes a repository one that may have capture keys (docs/format.md, "Signed packs")."""

import logging
from contextlib import closing
from dataclasses import replace

from cbtfs.core.manifest import PointState
from cbtfs.core.settings import CAPTURE
from cbtfs.errors import ChunkMissing, DataCorrupt
from cbtfs.store.backend.layout import open_points, seal_indexes
from cbtfs.store.repository import Repository
from cbtfs.store.settings import add_feature
from cbtfs.store.storing import storing

log = logging.getLogger(__name__)


def allow_capture_keys(repository: Repository) -> None:
    """Make all writers sign new packs. Only for the writer, with a key that can read content.

    The packs that exist were written by programs that can read content, so they are trusted. The
    record of them is durable before the feature. Indexes of files get a key that capture keys lack,
    and states lose what proofs quote of guests. Does nothing the second time.
    """
    path = repository.path
    if not repository.settings.has_signatures:
        identities = {}
        for pack in repository.packs.ids():
            try:
                identity, _ = repository.packs.open(pack).identity()
            except (ChunkMissing, DataCorrupt):
                identity = b""
            if identity:
                identities[pack] = identity
            else:
                log.warning("pack %s is damaged: its data is stored again by captures", pack)
        repository.trust_packs(identities)
        with closing(open_points(path)) as points, points.locked(), storing("the settings"):
            add_feature(path, CAPTURE)
    seal_indexes(path)
    repository.put_states(_without_quotes(repository))


def _without_quotes(repository: Repository) -> list[PointState]:
    """Return the states whose proofs quote content of guests, without the quotes."""
    changed = []
    for point in repository.points.ids():
        state, _ = repository.points.load_state(point)
        if state.proof is not None and state.proof.without_quotes() != state.proof:
            changed.append(replace(state, proof=state.proof.without_quotes()))
    return changed
