"""YAML as it is written reads back the same."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nothing_tune.cli import yaml_text
from nothing_tune.recipe.reader import read_text

SCALARS: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    (0.0002, "0.0002"),
    (1e-05, "1.0e-05"),
    (1.5e-7, "1.5e-07"),
    (float("inf"), ".inf"),
    (3, "3"),
    ("nf4", "nf4"),
    ("no", '"no"'),
    ("On", '"On"'),
    ("none", "none"),
    ("2e-4", '"2e-4"'),
    ("8.9", '"8.9"'),
    ("2026-11-20", '"2026-11-20"'),
    ("", '""'),
    (" a", '" a"'),
    ("a: b", '"a: b"'),
    ("a:b", "a:b"),
    ("a #b", '"a #b"'),
    ("a, b; c", "a, b; c"),
    ("<|im_end|>", '"<|im_end|>"'),
    ("marco-lora-${gpu.slug}", "marco-lora-${gpu.slug}"),
    ("${oc.env:HOME}/x", "${oc.env:HOME}/x"),
    ("\x1b[31m", '"\\u001b[31m"'),
]


@pytest.mark.parametrize(("value", "text"), SCALARS)
def test_scalars(value: Any, text: str) -> None:
    assert yaml_text.scalar(value) == text


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from([s for s, _ in SCALARS]),
)
keys = st.from_regex(r"[a-z][a-z0-9_]{0,11}", fullmatch=True).filter(
    lambda k: k not in ("y", "n", "on", "no", "off", "yes")
)
trees = st.dictionaries(
    keys,
    st.recursive(leaves | st.lists(leaves, max_size=6), lambda inner: st.dictionaries(keys, inner, max_size=4)),
    max_size=5,
)


@pytest.mark.engine  # takes seconds
@given(trees)
def test_round_trip(values: dict[str, Any]) -> None:
    text = "\n".join(line.plain() for line in yaml_text.lines(values)) + "\n"
    assert (yaml.safe_load(text) or {}) == values


def test_reader_agrees() -> None:
    values = {"training": {"learning_rate": 1e-05, "note": "a\nb\n\n  c", "long": [f"module_{i}" for i in range(20)]}}
    text = "\n".join(line.plain() for line in yaml_text.lines(values)) + "\n"
    assert "note: |-" in text
    assert "  - module_0" in text.replace("    -", "  -")
    assert read_text(text, "x")[0] == values
