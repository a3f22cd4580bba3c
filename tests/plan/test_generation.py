"""The section `generate` filled with its defaults, and what the Marco recipe says in it. Its rules are in broken_generate.yaml."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from nothing_tune.errors import UsageError
from nothing_tune.plan.generation import generation
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.library import library_root
from nothing_tune.recipe.reader import read_text
from nothing_tune.recipe.schema import field_of, json_schema

GOOD = {"prompts": "p.jsonl", "output": "out.jsonl", "generator": "{model: org/teacher}"}


def write(folder: Path, **keys: str) -> Path:
    path = folder / "r.yaml"
    body = "".join(f"  {k}: {v}\n" for k, v in {**GOOD, **keys}.items() if v)
    path.write_text(
        f"layers: [methods/lora]\nmodel: {{name_or_path: org/student}}\ndata: {{train: x.jsonl}}\ngenerate:\n{body}"
    )
    return path


def test_defaults_and_groups(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        group_by="level",
        system="all",
        sampling="{temperature: 0.3}",
        groups="{A1: {target: 5, sampling: {max_new_tokens: 9}}, B1: null}",
    )
    wanted = generation(load_recipe(path, gpu="cpu", overrides=["generate.groups.A1.system=one"]))
    groups = wanted.settings["groups"]
    usual = {"max_new_tokens": 256, "temperature": 0.3, "top_p": 1.0, "seed": 42}
    assert groups[""] == groups["B1"] == {"target": None, "system": "all", "row_system": None, "sampling": usual}
    assert groups["A1"] == {
        "target": 5,
        "system": "one",
        "row_system": None,
        "sampling": {**usual, "max_new_tokens": 9},
    }
    assert wanted.settings["filters"]["openings"] == 0.02
    assert wanted.settings["generator"]["kind"] == "transformers"
    assert wanted.model["name_or_path"] == "org/student"
    place, layer = wanted.origins["generate.generator.model"]
    assert place[0].endswith("r.yaml")
    assert layer.startswith("layer ")
    with pytest.raises(UsageError, match="it has no section generate"):
        generation(load_recipe("quickstart", gpu="cpu"))


def test_keys_of_groups_are_documented() -> None:
    assert field_of("generate.groups.A1.sampling.temperature") is field_of("generate.sampling.temperature")
    assert field_of("generate.groups.A1.target") is not None
    assert field_of("generate.groups.A1.nothing") is None


def test_marco_makes_what_its_source_made() -> None:
    """Composition and settings of the Marco training parameters document."""
    wanted = generation(load_recipe("marco", gpu="cpu"))
    groups = {name: g for name, g in wanted.settings["groups"].items() if name}
    targets = {name: g["target"] for name, g in groups.items()}
    assert targets == {"A1": 4000, "A2": 4000, "B1": 3501, "B2": 2600, "C1": 2600, "C2": 1212}
    assert sum(targets.values()) == 17_913
    assert wanted.settings["generator"]["model"] == "Qwen/Qwen2.5-3B-Instruct"
    assert (groups["A1"]["sampling"]["max_new_tokens"], groups["A1"]["sampling"]["temperature"]) == (150, 0.6)
    assert (groups["C2"]["sampling"]["max_new_tokens"], groups["C2"]["sampling"]["temperature"]) == (300, 0.8)
    for name, approach in (
        ("A1", "friendly, patient Italian teacher helping an absolute beginner"),
        ("B2", "skilled Italian teacher helping an upper-intermediate student"),
        ("C2", "master Italian teacher helping a near-native speaker"),
    ):
        assert approach in groups[name]["system"]
    steps = [g["sampling"]["max_new_tokens"] for g in groups.values()]
    assert steps == [150, 180, 210, 240, 270, 300]
    assert [g["sampling"]["temperature"] for g in groups.values()] == [0.6, 0.64, 0.68, 0.72, 0.76, 0.8]
    assert wanted.settings["output"].endswith("data/marco.jsonl")
    assert load_recipe("marco", gpu="cpu").get("data.train").endswith("data/marco.jsonl")


def test_the_json_schema_knows_groups() -> None:
    valid = jsonschema.Draft7Validator(json_schema()).is_valid
    whole = "generate: {prompts: p, groups: {A1: {target: 3, sampling: {temperature: 0.5}}, B1: null}}"
    assert valid(read_text(whole, "x")[0])
    assert valid(read_text("generate: null", "x")[0])
    for broken in ("A1: {targt: 3}", "A1: 3", "A1: {sampling: {temperature: -1}}"):
        assert not valid(read_text(f"generate: {{groups: {{{broken}}}}}", "x")[0])


def test_the_sample_of_prompts() -> None:
    """Real-looking questions of all levels, some with an authentic answer, none of which the sample's evaluation rows hold."""
    samples = library_root() / "samples"
    rows = [json.loads(line) for line in (samples / "marco.prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 40
    levels = Counter(row["level"] for row in rows)
    assert list(levels) == ["A1", "A2", "B1", "B2", "C1", "C2"]
    assert min(levels.values()) >= 5
    assert 4 <= sum("answer" in row for row in rows) <= 12
    assert all(set(row) <= {"question", "answer", "level"} and row["question"].strip() for row in rows)
    assert len({row["question"] for row in rows}) == len(rows)
    held_out = (samples / "marco.eval.jsonl").read_text(encoding="utf-8")
    assert not [row["question"] for row in rows if json.dumps(row["question"], ensure_ascii=False) in held_out]
