"""What a recipe asks for is what is exported, and the recipe's list of GGUF types is the list of those there are."""

from __future__ import annotations

from typing import Any

import pytest

from nothing_tune.outputs.quantizations import TYPES
from nothing_tune.outputs.wanted import Wanted
from nothing_tune.plan import kwargs
from nothing_tune.recipe.schema import GGUF_TYPES, SECTIONS


def test_the_types_of_the_recipe_are_those_that_can_be_made() -> None:
    assert tuple(TYPES) == GGUF_TYPES


def test_what_a_recipe_that_says_nothing_means() -> None:
    assert {key: field.default for key, field in SECTIONS["export"].items() if field.default is not None} == {
        key: value for key, value in kwargs.EXPORT.items() if value not in (None, [])
    }
    assert tuple(SECTIONS["export"]) == tuple(kwargs.EXPORT)
    for nothing in ({}, {"export": None}, {"export": kwargs.EXPORT}):
        assert Wanted.of(nothing) == Wanted()
        assert not Wanted.of(nothing)


@pytest.mark.parametrize(
    ("export", "peft", "wanted"),
    [
        ({"adapter": True, "merge": True}, {}, Wanted(adapter=True, merged=True)),
        ({"gguf": "q4_k_m"}, {}, Wanted(gguf=("q4_k_m",))),
        ({"gguf": ["q8_0", "q4_k_m", "q8_0"], "ollama": True}, {}, Wanted(gguf=("q8_0", "q4_k_m"), ollama=True)),
        ({"gguf": None, "gguf_adapter": True, "vllm": True}, {}, Wanted(gguf_adapter=True, vllm=True)),
        ({"push": "a/b"}, {"r": 4}, Wanted(adapter=True, push="a/b")),
        ({"push": "a/b", "private": False}, None, Wanted(merged=True, push="a/b", private=False)),
        ({"push": "a/b", "merge": True}, {"r": 4}, Wanted(merged=True, push="a/b")),
        ({"adapter": True, "prove": False, "system": ""}, {"r": 4}, Wanted(adapter=True, prove=False, system="")),
    ],
)
def test_of_a_plan(export: dict[str, Any], peft: dict[str, Any] | None, wanted: Wanted) -> None:
    assert Wanted.of({"export": export, "peft": peft}) == wanted
