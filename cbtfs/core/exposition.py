"""Metrics as text, in the exposition format 0.0.4 of Prometheus, which node_exporter reads too."""

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
    """One metric with its samples; all are gauges, as each run tells anew how it is."""

    name: str
    help: str
    samples: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"not a metric's name: {self.name!r}")

    def set(self, labels: Labels, value: float) -> None:
        """The sample with those labels; there is one, and the last value counts."""
        for name in labels:
            if not _LABEL.match(name):
                raise ValueError(f"not a label's name: {name!r}")
        self.samples[tuple(labels.items())] = value


def render(gauges: Iterable[Gauge]) -> str:
    """The text; a metric without samples is left out."""
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
    return text.encode("utf-8", "replace").decode()  # a lone surrogate is no UTF-8


def _number(value: float) -> str:
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN")
    return str(int(value)) if value == int(value) else repr(float(value))
