"""Recording of proofs in the state files of points."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cbtfs.core.manifest import unknown_state
from cbtfs.errors import AccessDenied, PointNotFound, RepositoryLocked, StoreFailed
from cbtfs.prove.point import Proven
from cbtfs.store.repository import writing


def record(path: Path, results: Iterable[Proven], *, lock_wait: float) -> None:
    """Record proofs; each result says why if it is not recorded.

    If the repository has capture keys, which can read states, texts of programs are left out. A
    state file that cannot be read stays: it says that nothing about the point is known.
    """
    pending = list(results)
    try:
        with writing(path, lock_wait=lock_wait) as repository:
            present = repository.points.ids()
            states = []
            for result in pending:
                point = result.point.manifest.point
                state = repository.points.load_state(point)[0]
                if point not in present:
                    result.unrecorded = str(PointNotFound(f"point {point} is gone"))
                elif state == unknown_state(point):
                    result.unrecorded = "the state file of the point is missing or damaged"
                else:
                    proof = result.proof.after(state.proof)
                    if repository.settings.has_signatures:
                        proof = proof.without_quotes()
                    states.append(replace(state, proof=proof))
            repository.put_states(states)
    except (RepositoryLocked, AccessDenied, StoreFailed) as exc:
        for result in pending:
            result.unrecorded = result.unrecorded or str(exc)
