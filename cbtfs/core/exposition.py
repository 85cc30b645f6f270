"""Metrics in the text exposition format 0.0.4 of Prometheus, which node_exporter also reads."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")

Labels = Mapping[str, str]


@dataclass(slots=True)
class Gauge:
    """One metric with its samples. All metrics are gauges: each run writes the current values."""

    name: str
    help: str
    samples: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"invalid metric name: {self.name!r}")

    def set(self, labels: Labels, value: float) -> None:
        """Set the sample with these labels, replacing an earlier value."""
        for name in labels:
            if not _LABEL.match(name):
                raise ValueError(f"invalid label name: {name!r}")
        self.samples[tuple(labels.items())] = value


def render(gauges: Iterable[Gauge]) -> str:
    """Return the text of the metrics, without those that have no sample."""
    lines = []
    for gauge in gauges:
        if gauge.samples:
            lines += [f"# HELP {gauge.name} {_escaped(gauge.help)}", f"# TYPE {gauge.name} gauge"]
            lines += [
                f"{gauge.name}{_braces(labels)} {_number(value)}"
                for labels, value in gauge.samples.items()
            ]
    return "".join(f"{line}\n" for line in lines)


def _braces(labels: Iterable[tuple[str, str]]) -> str:
    inside = ",".join(f'{name}="{_escaped(value, quote=True)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    text = text.replace('"', '\\"') if quote else text
    return text.encode("utf-8", "replace").decode()  # UTF-8 has no lone surrogates.


def _number(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    return str(int(value)) if value == int(value) else repr(float(value))
