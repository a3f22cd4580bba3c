"""Recipes that are written: what they say is read again as it was meant, with the reason beside each value."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune.recipe.compose import COLUMN, WIDTH, Setting, differing, number, scalar, text
from nothing_tune.recipe.reader import _Loader

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=2),
    max_leaves=4,
)


def read(words: str) -> Any:
    """YAML as recipes are read: 2e-4 is a number."""
    return yaml.load(words, _Loader)


@given(VALUES)
@settings(max_examples=30, deadline=None)
def test_any_value_is_read_again(value: Any) -> None:
    assert read(f"key: {scalar(value)}") == {"key": value}
    assert read(f"[{scalar(value, True)}, 1]") == [value, 1]


def test_values_look_as_recipes_have_them() -> None:
    for value, written in (
        (2e-4, "2e-4"), (3e-3, "3e-3"), (1.5e-5, "1.5e-5"), (0.05, "0.05"), (3.0, "3.0"), (0.0, "0.0"), (1e22, "1e+22"),
        (True, "true"), (None, "null"), ("all-linear", "all-linear"), ("no", '"no"'), ("2e-4", "2e-4"), ("", '""'),
        ("a: b", '"a: b"'), ("a #b", '"a #b"'), (["q_proj", "a, b"], '[q_proj, "a, b"]'), ("dialogue; r 8, L4", "dialogue; r 8, L4"),
    ):  # fmt: skip
        if value == "2e-4":  # as text it must stay one for the reader of recipes, which takes 2e-4 for a number
            assert read(f"a: {scalar(value)}") == {"a": "2e-4"}
        else:
            assert scalar(value) == written
    assert number(0.0001234567891) == "0.0001234567891"


def test_a_recipe_is_written_in_sections_with_reasons() -> None:
    long = "a reason that is too long to stand beside its value, " * 3
    made = text(
        "demo",
        ["methods/qlora", "models/nano"],
        [
            Setting("training.learning_rate", 2e-4, "usual"),
            Setting("data.train", "rows.jsonl"),
            Setting("training.max_length", 512, long),
            Setting("data.transcript.speaker", "KRAMER", "who is learned"),
            Setting("other.key", 1),
        ],
        header=["demo", "", "  run  tune train demo.yaml"],
        description="a demo, of sorts",
        schema="recipe.schema.json",
    )
    lines = made.splitlines()
    assert lines[:10] == [
        "# yaml-language-server: $schema=recipe.schema.json",
        "# demo",
        "#",
        "#   run  tune train demo.yaml",
        "",
        "layers: [methods/qlora, models/nano]",
        "name: demo",
        "description: a demo, of sorts",
        "",
        "data:",
    ]
    assert "  learning_rate: 2e-4".ljust(COLUMN) + "# usual" in lines
    assert "    speaker: KRAMER".ljust(COLUMN) + "# who is learned" in lines
    assert max(map(len, lines)) <= WIDTH
    assert lines[lines.index("  max_length: 512") - 1].startswith("  # ")
    assert list(read(made)) == ["layers", "name", "description", "data", "training", "other"]
    assert read(made)["data"] == {"train": "rows.jsonl", "transcript": {"speaker": "KRAMER"}}


def test_only_what_differs_is_kept() -> None:
    values = {"training": {"seed": 1, "packing": True, "eval_steps": None}, "data": {"eval": 0.1}}
    told = [
        Setting("training.seed", 1),
        Setting("training.packing", 1),
        Setting("training.eval_steps", None),
        Setting("data.eval", 0.1, kept=True),
        Setting("data.train", None),
        Setting("training.seed.below", 2),
    ]
    assert [s.key for s in differing(told, values)] == [
        "training.packing", "data.eval", "data.train", "training.seed.below",
    ]  # fmt: skip
