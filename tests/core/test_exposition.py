"""Metrics as text: Prometheus's own parser reads the same values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from cbtfs.core.exposition import Gauge, render

NAMES = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]*", fullmatch=True)
LABELS = st.dictionaries(
    st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]*", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    max_size=3,
)


@given(
    NAMES,
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), max_size=20),
    st.lists(st.tuples(LABELS, st.floats(allow_nan=False) | st.integers(0, 1 << 50)), min_size=1),
)
def test_a_parser_reads_what_was_set(
    name: str, text: str, samples: list[tuple[dict[str, str], float]]
) -> None:
    gauge = Gauge(name, text)
    meant: dict[frozenset[tuple[str, str]], float] = {}
    for labels, value in samples:
        if frozenset(labels.items()) not in meant:
            meant[frozenset(labels.items())] = value
            gauge.set(labels, value)

    (family,) = text_string_to_metric_families(render([gauge]))
    assert (family.name, family.type, family.documentation) == (name, "gauge", text)
    assert {frozenset(sample.labels.items()): sample.value for sample in family.samples} == meant


def test_a_metric_is_written_as_the_format_has_it() -> None:
    gauge = Gauge("vm_bytes", 'A "size"\\ of\nsomething.')
    gauge.set({"vm": 'we"b\\1\n'}, 3)
    gauge.set({}, 0.25)

    assert render([gauge, Gauge("empty", "")]) == (
        '# HELP vm_bytes A "size"\\\\ of\\nsomething.\n'
        "# TYPE vm_bytes gauge\n"
        'vm_bytes{vm="we\\"b\\\\1\\n"} 3\n'
        "vm_bytes 0.25\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN"), (True, "1"), (1e300, None)],
)
def test_numbers_of_every_kind(value: float, text: str | None) -> None:
    gauge = Gauge("x", "")
    gauge.set({}, value)
    (family,) = text_string_to_metric_families(render([gauge]))

    assert text is None or render([gauge]).endswith(f"x {text}\n")
    assert math.isnan(value) or family.samples[0].value == value


def test_the_last_value_counts() -> None:
    gauge = Gauge("x", "")
    gauge.set({"a": "b"}, 1)
    gauge.set({"a": "b"}, 2)

    assert 'x{a="b"} 2\n' in render([gauge])
    assert render([gauge]).count("\nx") == 1


@pytest.mark.parametrize("name", ["", "1x", "a-b", "a b", "a\n"])
def test_names_are_names(name: str) -> None:
    with pytest.raises(ValueError, match="invalid metric name"):
        Gauge(name, "")
    with pytest.raises(ValueError, match="invalid label name"):
        Gauge("x", "").set({name: ""}, 1)


def test_a_lone_surrogate_does_no_harm() -> None:
    gauge = Gauge("x", "")
    gauge.set({"vm": "\udc80"}, 1)

    assert render([gauge]).encode().decode().endswith('x{vm="?"} 1\n')
