"""The record of a proof, and the effect of a later attempt on the record."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cbtfs.core.ids import PointId
from cbtfs.core.manifest import PointState, decode_state, encode_state
from cbtfs.core.proof import MAX_NOTE, MAX_NOTES, Proof, bounded

PROOF = Proof(3, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "cbtfs", notes=("root: passed",))
PROOFS = st.builds(
    lambda level, why, milliseconds: replace(
        PROOF,
        level=level,
        failure="why" if why == "failure" else None,
        obstacle="why" if why == "obstacle" else None,
        restore_milliseconds=milliseconds,
    ),
    st.sampled_from([None, 0, 1, 2, 3, 4]),
    st.sampled_from(["", "failure", "obstacle"]),
    st.none() | st.integers(0, 1 << 40),
)


@given(PROOFS)
def test_a_state_file_keeps_a_proof(proof: Proof) -> None:
    state = PointState(PointId("1" * 32), proof=proof)

    assert decode_state(encode_state(state), state.point) == state


@given(PROOFS, PROOFS)
def test_only_a_failure_lowers_a_level(earlier: Proof, attempt: Proof) -> None:
    kept = attempt.after(earlier)

    before = -1 if earlier.level is None else earlier.level
    after = -1 if kept.level is None else kept.level
    if attempt.failure is not None:
        assert (kept.level, kept.failure) == (attempt.level, attempt.failure)
    else:
        assert after >= before
        assert kept.failure is None or after == before
    assert kept.obstacle == attempt.obstacle
    assert kept.restore_milliseconds in (
        attempt.restore_milliseconds,
        earlier.restore_milliseconds,
    )


def test_a_failure_stays_until_its_level_passes() -> None:
    failed = replace(PROOF, level=2, failure="level 3: root")

    assert replace(PROOF, level=2).after(failed).failure == failed.failure
    assert replace(PROOF, level=3).after(failed).failure is None


def test_notes_are_bounded() -> None:
    notes = bounded(["x" * 1000] * 100)

    assert (len(notes), len(notes[0])) == (MAX_NOTES, MAX_NOTE)
    assert notes[-1] == f"and {100 - MAX_NOTES + 1} more"
