"""What a campaign hands back, and how a table shows it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """Nothing is lost where this is returned: a loss is a Violation."""

    campaign: str
    tried: int
    """How often what the campaign is about was done."""
    what: str
    """Of what."""
    points: int
    """Points that were promised, and read to the last byte in the end."""
    unacknowledged: int = 0
    """Points that were committed though nobody was told, and found later."""
    lost: int = 0
    note: str = ""


def table(results: list[CampaignResult], seed: int) -> str:
    """The results, a line each."""
    rows = [("campaign", "tried", "of", "points", "lost", "found unacknowledged", "")]
    rows += [
        (
            r.campaign,
            str(r.tried),
            r.what,
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
