"""The report of `cbtfs doctor --try-nfc`, as text and as a document."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cbtfs import __version__

if TYPE_CHECKING:
    from cbtfs.doctor.nfc_trial import NfcTrial


def of_trial(trial: NfcTrial) -> dict[str, Any]:
    """Return the document of a trial."""
    facts = trial.facts
    return {
        "cbtfs": __version__,
        "python": platform.python_version(),
        "server": trial.server,
        "host": trial.host,
        "mode": trial.mode,
        "nfc": None
        if facts is None
        else {
            "port": facts.port,
            "service": facts.service,
            "capabilities": list(facts.capabilities),
            "pinned_by": list(facts.pinned_by),
            "tls": facts.tls_version,
            "version": facts.version,
        },
        "disk": {
            "size": trial.size,
            "thin": trial.thin,
            "datastore": trial.datastore_type,
            "allocated_bytes": trial.allocated_bytes,
            "database": trial.database,
        },
        "ranges": trial.ranges,
        "read_bytes": trial.read_bytes,
        "nfc_seconds": round(trial.nfc_seconds, 3),
        "https_seconds": round(trial.https_seconds, 3),
        "nfc_sha256": trial.nfc_digest,
        "https_sha256": trial.https_digest,
        "differing": [{"start": e.start, "length": e.length} for e in trial.differing],
        "equal": trial.is_equal,
        "error": trial.error_text,
    }


def trial_lines(trial: NfcTrial) -> Iterator[str]:
    """Yield the lines of a report."""
    document = of_trial(trial)
    for name, value in document.items():
        if isinstance(value, dict):
            for member, part in value.items():
                yield f"{f'{name} {member}':<24}{_text(part)}"
        else:
            yield f"{name:<24}{_text(value)}"
    if trial.is_equal:
        yield "NFC and HTTPS return the same bytes. The report has no names: you can send it."
    else:
        yield "NFC does not work here. The report has no names: please send it to the authors."


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
