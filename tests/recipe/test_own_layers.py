"""Settings that run code count where the person who trains wrote them: the recipe, `--with`, the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nothing_tune.errors import RecipeError
from nothing_tune.recipe import load_recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MINE = "layers: [methods/qlora]\nname: mine\n"
TRUSTS = f"model: {{name_or_path: org/model, revision: {COMMIT}, trust_remote_code: true}}\n"
COMMANDS = "checkpoint: {on_commit: sync}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(mine: str, **how: Any) -> Any:
    Path("mine.yaml").write_text(mine)
    recipe = load_recipe("mine.yaml", **{"gpu": "cpu", **how})
    return recipe.get("model.trust_remote_code"), recipe.get("checkpoint.on_commit")


def test_of_ones_own() -> None:
    Path("extra.yaml").write_text(TRUSTS + COMMANDS)
    assert load(MINE + TRUSTS + COMMANDS) == (True, "sync")
    assert load(MINE, with_=["extra.yaml"]) == (True, "sync")
    assert load(f"{MINE}gpus:\n  cpu:\n    {TRUSTS}    {COMMANDS}") == (True, "sync")
    assert load(f"{MINE}scenarios:\n  debug:\n    {TRUSTS}", scenario="debug") == (True, None)
    words = [f"model.revision={COMMIT}", "model.trust_remote_code=true", "checkpoint.on_commit=sync"]
    assert load(MINE, overrides=words) == (True, "sync")


@pytest.mark.parametrize("text", [TRUSTS, COMMANDS], ids=["code", "command"])
def test_of_an_included_layer(text: str) -> None:
    Path("below.yaml").write_text(text)
    Path("extra.yaml").write_text("layers: [below]\n")
    Path("blocks.yaml").write_text(f"gpus:\n  cpu:\n    {text}")
    for mine, how in (
        ("layers: [methods/qlora, below]\n", {}),
        ("layers: [methods/qlora, blocks]\n", {}),
        (MINE, {"with_": ["extra.yaml"]}),
    ):
        with pytest.raises(RecipeError, match="and a layer that the recipe includes sets it"):
            load(mine, **how)


def test_what_an_included_layer_says_may_be_overruled() -> None:
    Path("below.yaml").write_text(TRUSTS + COMMANDS)
    off = "layers: [methods/qlora, below]\nmodel: {trust_remote_code: false}\ncheckpoint: {on_commit: null}\n"
    assert load(off) == (False, None)
    on = "layers: [methods/qlora, below]\nmodel: {trust_remote_code: true}\ncheckpoint: {on_commit: mine}\n"
    assert load(on) == (True, "mine")


def test_a_folder_has_no_commit(folder: Path) -> None:
    (folder / "model").mkdir()
    assert load(f"{MINE}model: {{name_or_path: model, trust_remote_code: true}}\n")[0] is True
    with pytest.raises(RecipeError, match="names no commit"):
        load(f"{MINE}model: {{name_or_path: org/model, trust_remote_code: true}}\n")
