"""What a recipe file may be at most: size, depth, values, keys, and what references unfold to."""

from __future__ import annotations

from pathlib import Path

import pytest

from nothing_tune.errors import RecipeError
from nothing_tune.recipe import load_recipe, reader


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        reader.read_text(text, "recipe.yaml")
    return str(caught.value)


def test_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.yaml").write_text(f"description: {'x' * (3 << 19)}\n")
    with pytest.raises(RecipeError) as caught:
        reader.read_file(tmp_path / "large.yaml")
    assert str(caught.value) == (
        "error: large.yaml is 1.5 MiB: a recipe has at most 1 MiB\n  hint: data belongs in data.train"
    )


@pytest.mark.parametrize("opener", ["[", "{", "- ", "? ", "[a: ", "{a: "])
@pytest.mark.parametrize("levels", [40, 900, 200_000])
def test_depth(opener: str, levels: int) -> None:
    said = refused(opener * levels)
    assert said.startswith("error: ")
    assert "recipe.yaml:" in said
    if levels > reader.MAX_BRACKETS:
        assert said.startswith(f"error: the file is nested more than {reader.MAX_DEPTH} levels deep\n")


def test_brackets_side_by_side_are_no_depth() -> None:
    text = f"data: {{train: [{', '.join(['[a]'] * 2000)}]}}"
    values, _, _ = reader.read_text(text, "recipe.yaml")
    assert len(values["data"]["train"]) == 2000


def test_aliases() -> None:
    laughs = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n"
    laughs += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    assert refused(laughs).startswith("error: the file unfolds to more than 20,000 values\n")
    assert refused("a: &a {b: *a}").startswith("error: the file is nested more than 32 levels deep\n")
    values, _, _ = reader.read_text("a: &x {r: 4}\nb: *x\n", "recipe.yaml")
    assert values == {"a": {"r": 4}, "b": {"r": 4}}


def test_keys() -> None:
    assert refused(f"model:\n  ? {'k' * 2000}\n  : 1\n") == (
        "error: a key is longer than 1,000 characters\n  where: recipe.yaml:2:5\n  hint: text belongs behind the colon"
    )


def test_numbers() -> None:
    assert refused(f"a: {'9' * 100_000}").startswith("error: a: !!int is not a value of a recipe\n")


@pytest.mark.engine  # takes seconds
@pytest.mark.parametrize("times", [1, 10])
def test_references(times: int, tmp_path: Path) -> None:
    """Ten references to ten references unfold without end, and a chain of one each is longer than anyone writes."""
    chain = "".join(f"    k{n}: '{f'${{model.facts.k{n - 1}}}' * times}'\n" for n in reversed(range(1, 3000)))
    (tmp_path / "mine.yaml").write_text(f"layers: [methods/qlora]\nmodel:\n  facts:\n    k0: ha\n{chain}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "mine.yaml", gpu="cpu")
    assert "the interpolation unfolds to more than 100,000 characters" in str(caught.value)


@pytest.mark.parametrize("text", ["${.name}", "${training.${name}}", "${training[seed]}"])
def test_one_form_of_reference(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"layers: [methods/qlora]\nname: mine\ndescription: '{text}'\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "mine.yaml", gpu="cpu")
    assert f"description: {text!r} is not a valid interpolation" in str(caught.value)
