"""docs/data.md: each example row is of the format that it stands under, and each example of a recipe is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from nothing_tune import formats
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.schema import SECTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_example_rows_are_what_they_are_said_to_be() -> None:
    examples = re.findall(r"^`([\w-]+)`[^\n]*(?:\n[^\n`]+.*)*?\n\n```json\n(.*?)\n```", PAGE, re.MULTILINE)
    assert [name for name, _ in examples] == formats.names()
    for name, text in examples:
        row = json.loads(text)
        found = formats.detect([row])
        assert name == found.NAME
        options = {"transcript": {"speaker": "Gus", "turns": 8, "stride": None}}
        for made in found.convert(row, options) if name != "transcript" else []:
            assert formats.check(found.KIND, made) is None


def test_example_recipes_are_recipes(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert yaml.safe_load(block)
        (tmp_path / "recipe.yaml").write_text(f"layers: [methods/qlora]\n{block}", encoding="utf-8")
        assert load_recipe(tmp_path / "recipe.yaml", gpu="cpu").advice == ()


def test_every_key_of_data_is_explained() -> None:
    keys = set(SECTIONS["data"]) - {"sample", "chat_template", "max_samples"}
    assert {key for key in keys if f"data.{key}" not in PAGE and not re.search(rf"\b{key}\b", PAGE)} == set()
