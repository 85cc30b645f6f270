"""Result of a campaign, and the table of results."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """Result of a campaign without a loss: a loss raises Violation."""

    campaign: str
    tried: int
    """Number of faults that were tried."""
    fault: str
    """Kind of the faults."""
    points: int
    """Acknowledged points that were read whole at the end."""
    unacknowledged: int = 0
    """Points that a killed run committed but did not acknowledge."""
    lost: int = 0
    note: str = ""


def table(results: list[CampaignResult], seed: int) -> str:
    """Return the table of results, one line per campaign."""
    rows = [("campaign", "tried", "of", "points", "lost", "unacknowledged", "")]
    rows += [
        (
            r.campaign,
            str(r.tried),
            r.fault,
            str(r.points),
            str(r.lost),
            str(r.unacknowledged),
            r.note,
        )
        for r in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([f"seed {seed}", *lines])
