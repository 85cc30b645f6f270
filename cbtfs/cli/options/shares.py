"""Shares as users write them: fractions and percentages."""

import re
from fractions import Fraction
from typing import Final

from cbtfs.errors import UsageError

_SHARE: Final = re.compile(
    r"(?P<n>[0-9]{1,9})(?:/(?P<d>[0-9]{1,9}))?|(?P<percent>[0-9]{1,3}(?:\.[0-9]{1,9})?)%"
)


def share_of(option: str, text: str) -> Fraction:
    """Return the share that *text* means, from 0 to 1: 1/30, 5%, 0 or 1; UsageError otherwise."""
    match = _SHARE.fullmatch(text)
    if match is not None:
        if match["percent"] is not None:
            share = Fraction(match["percent"]) / 100
        else:
            below = int(match["d"] or 1)
            share = Fraction(int(match["n"]), below) if below else Fraction(-1)
        if 0 <= share <= 1:
            return share
    raise UsageError(f"invalid {option} {text!r}: use a share from 0 to 1, e.g. 1/30 or 5%")
