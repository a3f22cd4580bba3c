"""Broken recipes and the exact lines that each of them gives; the table is `broken.yaml`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from nothing_tune.errors import RecipeError
from nothing_tune.recipe import load_recipe

CASES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("broken.yaml").read_text(encoding="utf-8"))


def said(case: dict[str, Any], folder: Path) -> list[str]:
    """The lines that loading the case's recipe in `folder`, the current folder, gives."""
    for name, text in {"recipe.yaml": case["body"], **case.get("files", {})}.items():
        (folder / name).write_text(text, encoding="utf-8")
    try:
        recipe = load_recipe(
            "recipe.yaml",
            gpu=case.get("gpu", "cpu"),
            scenario=case.get("scenario"),
            overrides=case.get("overrides", ()),
        )
    except RecipeError as error:
        problems = error.problems
    else:
        problems = recipe.advice
    return [line.replace(f"{folder}/", "").replace(str(folder), ".") for p in problems for line in p.lines()]


@pytest.mark.parametrize("case", CASES, ids=[f"{c['kind']}: {c['name']}" for c in CASES])
def test_broken_recipe(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(case, tmp_path) == case["lines"].splitlines()


def test_the_table_is_wide() -> None:
    kinds = Counter(case["kind"] for case in CASES)
    assert sum(kinds.values()) - kinds["advice"] >= 100
    assert {kind for kind, count in kinds.items() if count < 4} <= {"many"}
    assert len({case["name"] for case in CASES if case["kind"] == "rule"}) == kinds["rule"]


def test_no_message_shows_a_secret() -> None:
    for case in CASES:
        if case["kind"] == "secret":
            assert not any(mark in case["lines"] for mark in ("aB3dE5gH7jK9", "0123456789abcdef", "abcdEFGH", "hunter2"))
