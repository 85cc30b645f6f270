"""The ten constructions of translated English to avoid (CONTRIBUTING.md)."""

import re
from typing import Final

CONSTRUCTIONS: Final = {
    "clause as subject": (
        r"(?:^|[.:;(]\s+)(?:[Ww]hat|[Ww]ho|[Ww]homever|[Ww]hoever)\s+(?!(?:is|are|do|does|did)\b[^.]*\?)[a-z]"
        r"|(?:^|[.:;(]\s+)Where\s+(?:a|an|the|there|it|this|that|one|nobody|no|each)\b"
    ),
    "what as object": r"\b(?:of|for|from|with|by|and|all|than|but|on|to) (?:what|who)\b"
    r"(?! (?:happens|happened|to)\b)",
    "anew, afresh": r"\b(?:anew|afresh)\b",
    "stand": r"\b(?:stand|stands|stood|standing)\b(?!-?alone| for\b)",
    "tell": r"\b(?:tell|tells|told|telling)\b",
    "mend": r"\bmend(?:s|ed|ing)?\b",
    "whom, thereof": r"\b(?:whom|thereof|therein|whereof|wherein|herein|whence)\b",
    "of it, of them": r"\b(?:of|for|to|with|from|in|on|by) (?:it|them|these|those)(?=[.,;:)]|$)",
    "let, let go": r"\b(?:[Ll]ets?|letting) (?:go|be|in|out|[a-z*_]+ (?:be|go|stand|have))\b"
    r"|\bgo(?:es)? on with\b|\bgives? back\b",
    "be had, so many": r"\bbe had\b|\bhas to be\b|\bso (?:many|much)\b(?! (?:as|that)\b)"
    r"|\b(?:is|are) none\b|\bbecame of\b|\bbecomes? of\b",
}
"""Regular expressions by name. Each is rare in the prose of other Python projects."""

PATTERNS: Final = {
    name: re.compile(pattern, re.MULTILINE) for name, pattern in CONSTRUCTIONS.items()
}


def find(text: str) -> list[tuple[str, int]]:
    """Return name and offset of each construction in *text*, in ascending order of offsets."""
    hits = [
        (name, match.start())
        for name, pattern in PATTERNS.items()
        for match in pattern.finditer(text)
    ]
    return sorted(hits, key=lambda hit: hit[1])
