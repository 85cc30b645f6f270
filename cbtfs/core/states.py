"""Merge of two changes of the state of a point that were made at once."""

from dataclasses import replace

from cbtfs.core.manifest import PointState


def merge_states(base: PointState, mine: PointState, theirs: PointState) -> PointState:
    """Return *theirs* with the changes that lead from *base* to *mine*.

    A suspicion is never lost: it is only removed if nobody else has changed it.
    """
    gone, new = {*base.tags} - {*mine.tags}, [tag for tag in mine.tags if tag not in base.tags]
    kept = [tag for tag in theirs.tags if tag not in gone]
    merged = replace(
        theirs,
        is_protected=mine.is_protected
        if mine.is_protected != base.is_protected
        else theirs.is_protected,
        tags=tuple(dict.fromkeys((*kept, *new))),
        verified=mine.verified if mine.verified != base.verified else theirs.verified,
        proof=mine.proof if mine.proof != base.proof else theirs.proof,
    )
    return _merge_suspicion(base, mine, merged)


def _merge_suspicion(base: PointState, mine: PointState, theirs: PointState) -> PointState:
    before = base.suspect, base.suspect_disks
    changed = mine.suspect, mine.suspect_disks
    if changed == before:
        return theirs
    if (theirs.suspect, theirs.suspect_disks) == before:
        return replace(theirs, suspect=mine.suspect, suspect_disks=mine.suspect_disks)
    if mine.suspect is None:
        return theirs
    if not mine.suspect_disks:
        return replace(theirs, suspect=mine.suspect, suspect_disks=())
    for disk in mine.suspect_disks:
        theirs = theirs.suspecting(disk, mine.suspect)
    return theirs
