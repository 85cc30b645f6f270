"""What VMware's library logs, without what must not show."""

import re
from collections.abc import Iterable
from typing import Final

_NAMED: Final = re.compile(
    r"(?i)((?:pass(?:word|wd|phrase)?|cookie|vmware_soap_session|session[ _-]?(?:id|key)|ticket)"
    r"[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;]+)"
)
_THUMBPRINT: Final = re.compile(r"\b(?:[0-9A-Fa-f]{2}:){15,}[0-9A-Fa-f]{2}\b")
_DOTS: Final = "…"
_MOST: Final = 2000
"""Characters of a line that are worth keeping."""


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """*text* as one printable line without *secrets*, and without what looks like some."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, _DOTS)
    text = _NAMED.sub(rf"\1{_DOTS}", text)
    text = _THUMBPRINT.sub(_DOTS, text)
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "?" for each in line)[:_MOST]
