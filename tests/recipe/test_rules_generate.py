"""The section `generate`: its defaults, and every rule with its exact words."""

from __future__ import annotations

from pathlib import Path

import pytest

from nothing_tune.errors import RecipeError, UsageError
from nothing_tune.plan.generation import generation
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.schema import field_of

GOOD = {"prompts": "p.jsonl", "output": "out.jsonl", "generator": "{model: org/teacher}"}


def write(folder: Path, **keys: str) -> Path:
    path = folder / "r.yaml"
    body = "".join(f"  {k}: {v}\n" for k, v in {**GOOD, **keys}.items() if v)
    path.write_text(
        f"layers: [methods/lora]\nmodel: {{name_or_path: org/student}}\ndata: {{train: x.jsonl}}\ngenerate:\n{body}"
    )
    return path


@pytest.mark.parametrize(
    ("keys", "what", "hint"),
    [
        ({"prompts": ""}, "generate names no prompts", "write generate.prompts: FILE, folder, glob or hub id"),
        (
            {"prompts": "[{source: a.jsonl}, {max_rows: 3}]"},
            "generate.prompts.1 names no source",
            "write source: FILE, folder, glob or hub id",
        ),
        (
            {"generator": "{kind: openai}"},
            "generate names no generator",
            "write generate.generator: {model: ORG/NAME}, another family than the model that is trained",
        ),
        (
            {"output": ""},
            "generate names no output",
            "write generate.output: data/NAME.jsonl, the file that data.train names",
        ),
        ({"output": "o.csv"}, "generate.output is o.csv, and JSON lines are written", "end its name in .jsonl"),
        (
            {"prompts": "[p.jsonl, out.jsonl]"},
            "generate.output is the file of the prompts, which it would replace",
            "name another file",
        ),
        (
            {"group_by": "level", "groups": "{A1: 4000}"},
            "generate.groups.A1 must be a mapping of keys",
            "write A1: {target: 4000}",
        ),
        (
            {"groups": "{A1: {target: 3}}"},
            "generate.groups does nothing: generate.group_by names no column",
            "write group_by: COLUMN, such as level",
        ),
        (
            {"group_by": "level", "groups": "{A1: {targt: 3}}"},
            "generate.groups.A1.targt is not a key of generate.groups.A1",
            "did you mean target?",
        ),
        (
            {"group_by": "level", "groups": "{A1: {sampling: {temperature: hot}}}"},
            "generate.groups.A1.sampling.temperature must be a number, not the text 'hot'",
            "write a number such as 0.7",
        ),
        (
            {"group_by": "level", "groups": "{A1: {target: -3}}"},
            "generate.groups.A1.target must be 0 or more, not -3",
            "",
        ),
        (
            {"filters": "{min_words: 9, max_words: 3}"},
            "generate.filters.min_words is 9, above max_words 3: no answer is taken",
            "swap them",
        ),
        (
            {"filters": "{min_words: 300}", "group_by": "level", "groups": "{A1: {sampling: {max_new_tokens: 150}}}"},
            "generate.groups.A1.sampling.max_new_tokens is 150, and filters.min_words 300: no answer is taken",
            "raise max_new_tokens, or lower min_words",
        ),
        (
            {"generator": "{kind: openai, model: m, base_url: localhost:8000/v1}"},
            "generate.generator.base_url is localhost:8000/v1, which is no address",
            "write http://HOST:PORT/v1",
        ),
        (
            {"generator": "{kind: openai, model: m, base_url: 'http://localhost:8000/v1/chat/completions'}"},
            "generate.generator.base_url ends in the name of a request",
            "write http://localhost:8000/v1",
        ),
        (
            {"generator": "{kind: opnai, model: m}"},
            "generate.generator.kind: 'opnai' is not one of its values",
            "did you mean openai?",
        ),
        (
            {"generator": "{model: m, api_key_env: 'my key'}"},
            "generate.generator.api_key_env must look like OPENAI_API_KEY, not the text 'my key'",
            "write the name of an environment variable, not the key itself",
        ),
        (
            {"generator": "{model: m, api_key: abc}"},
            "generate.generator.api_key is not a key of generate.generator",
            "did you mean api_key_env?",
        ),
        ({"prompt_column": "q"}, "generate.prompt_column is not a key of generate", "did you mean prompt?"),
    ],
)
def test_rules(tmp_path: Path, keys: dict[str, str], what: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, **keys), gpu="cpu")
    found = [(p.what, p.hint) for p in caught.value.problems]
    assert (what, hint) in found, found
    assert all(p.place for p in caught.value.problems)


def test_a_setting_that_an_endpoint_does_not_read_is_advice(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, generator="{kind: openai, model: m, dtype: bfloat16}"), gpu="cpu")
    assert [(p.what, p.severity) for p in recipe.advice if p.key.startswith("generate")] == [
        ("generate.generator.dtype does nothing: the endpoint has loaded its model", "advice")
    ]


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
