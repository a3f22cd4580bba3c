"""Broken recipes and the exact lines that each of them gives; the tables are `broken*.yaml`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nothing_tune.errors import Problem, RecipeError
from nothing_tune.recipe import checks, load_recipe, rules
from nothing_tune.recipe.library import library_root

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

TABLES = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("broken*.yaml"))]
CASES: list[dict[str, Any]] = [case for table in TABLES for case in yaml.safe_load(table)]


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
    lines = [line for p in problems for line in p.lines()]
    return [
        line.replace(f"{folder}/", "").replace(str(folder), ".").replace(str(library_root()), "recipes")
        for line in lines
    ]


@pytest.mark.parametrize("case", CASES, ids=[f"{c['kind']}: {c['name']}" for c in CASES])
def test_broken_recipe(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(case, tmp_path) == case["lines"].splitlines()


def test_the_table_is_wide() -> None:
    kinds = Counter(case["kind"] for case in CASES)
    assert sum(kinds.values()) - kinds["advice"] >= 100
    assert {kind for kind, count in kinds.items() if count < 4} <= {"many"}
    assert len({case["name"] for case in CASES if case["kind"] == "rule"}) == kinds["rule"]


def test_every_rule_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoke: set[str] = set()

    def listening(rule: rules.Rule) -> rules.Rule:
        def heard(view: rules.View) -> Iterator[Problem]:
            for problem in rule(view):
                spoke.add(rule.__name__)
                yield problem

        return heard

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "RULES", tuple(listening(rule) for rule in rules.RULES))
    for case in CASES:
        if case["kind"] in ("rule", "advice", "range"):
            said(case, tmp_path)
    assert spoke == {rule.__name__ for rule in rules.RULES}
    assert all(rule.__doc__ for rule in rules.RULES)


def test_no_message_shows_a_secret() -> None:
    for case in CASES:
        if case["kind"] == "secret":
            assert not any(
                mark in case["lines"] for mark in ("aB3dE5gH7jK9", "0123456789abcdef", "abcdEFGH", "hunter2")
            )
