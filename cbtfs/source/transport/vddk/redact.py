"""Remove secrets from the log lines of VMware's library."""

import re
from collections.abc import Iterable
from typing import Final

_NAMED: Final = re.compile(
    r"(?i)((?:pass(?:word|wd|phrase)?|cookie|vmware_soap_session|session[ _-]?(?:id|key)|ticket)"
    r"[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;]+)"
)
_THUMBPRINT: Final = re.compile(r"\b(?:[0-9A-Fa-f]{2}:){15,}[0-9A-Fa-f]{2}\b")
_DOTS: Final = "…"
_MAX_LENGTH: Final = 2000
"""Maximum length of a redacted line in characters."""


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Return *text* as one printable line without *secrets* and other apparent credentials."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, _DOTS)
    text = _NAMED.sub(rf"\1{_DOTS}", text)
    text = _THUMBPRINT.sub(_DOTS, text)
    line = " ".join(text.split())
    printable = "".join(character if character.isprintable() else "?" for character in line)
    return printable[:_MAX_LENGTH]
