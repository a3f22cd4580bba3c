"""The JSON schema of recipes: it takes everything that ships, and refuses what the checks refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from nothing_tune.recipe.library import JUDGES, LAYER_KINDS, PROVIDERS, library_root
from nothing_tune.recipe.reader import read_file, read_text
from nothing_tune.recipe.schema import SECTIONS, TOP, UPSTREAM, field_of, json_schema
from nothing_tune.recipe.upstream import options

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
FILES = sorted(p for p in library_root().rglob("*.yaml") if p.parent.name not in (PROVIDERS, JUDGES))  # no recipes


@pytest.mark.parametrize("path", FILES, ids=[p.relative_to(library_root()).as_posix() for p in FILES])
def test_every_shipped_file_is_valid(path: Path) -> None:
    values, _, _ = read_file(path)
    assert [f"{'.'.join(map(str, e.path))}: {e.message}" for e in VALIDATOR.iter_errors(values)] == []


def test_files_of_every_kind_were_seen() -> None:
    kinds = {path.relative_to(library_root()).parts[0] for path in FILES}
    assert set(LAYER_KINDS) <= kinds
    assert len(FILES) >= 50


def test_the_file_that_recipes_point_to_is_this_schema() -> None:
    stored = (library_root() / "schema.json").read_text(encoding="utf-8")
    assert json.loads(stored) == json.loads(json.dumps(SCHEMA)), "run: tune schema --out recipes/schema.json"


def test_it_is_a_schema_with_hover_texts() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    training = SCHEMA["definitions"]["training"]["properties"]
    assert len(training) > 100
    assert [name for name, schema in training.items() if not schema.get("description")] == []
    assert "Managed" in training["save_steps"]["description"]
    assert "output_dir" not in training
    assert len(json.dumps(SCHEMA)) < 400_000


@pytest.mark.parametrize(
    "body",
    [
        "training: {learning_rat: 1e-4}",
        "training: {learning_rate: '2e-4'}",
        "training: {learning_rate: -1}",
        "training: {optim: adam}",
        "training: {eval_strategy: true}",
        "training: {output_dir: out}",
        "quantization: {bnb_4bit_quant_typ: nf4}",
        "quantization: {bnb_4bit_quant_type: int4}",
        "peft: {r: 0}",
        "peft: {peft_type: lora}",
        "peft: {loftq_config: {bits: 4}}",
        "data: {max_samples: 0}",
        "data: {sample: {trian: x}}",
        "data: {train: [{source: a.jsonl, weigth: 2}]}",
        "data: {train: [a.jsonl, 5]}",
        "data: {eval: {source: a.jsonl, max_rows: 0}}",
        "data: {columns: {prompt: 3}}",
        "data: {format: preference}",
        "data: {truncation: keep_start}",
        "data: {transcript: {turns: 1}}",
        "data: {near_duplicates: 85}",
        "tracking: {tracker: comet}",
        "model: null",
        "modle: {}",
        "gpus: {l4: {training: {learning_rat: 1}}}",
        "gpus: {l4: {layers: [methods/lora]}}",
        "layers: methods/lora",
    ],
)
def test_broken_recipes_are_refused(body: str) -> None:
    assert not VALIDATOR.is_valid(read_text(body, "x")[0])


@pytest.mark.parametrize(
    "body",
    [
        "",
        "training: {eval_strategy: no, seed: '${data.split_seed}', fp16: null}",
        "peft: {init_lora_weights: pissa_niter_16, rank_pattern: {a.b: 4}}",
        "peft: {peft_type: IA3, target_modules: all-linear, layers_to_transform: 3}",
        "model: {attn_implementation: kernels-community/flash-attn2}",
        "quantization: null\npeft: null",
        "gpus: {l4: {replace: [peft], peft: {peft_type: VERA}}}",
        "data: {train: [a.jsonl, b.jsonl], eval: null}",
        "data: {train: {source: org/rows, split: train, revision: main, format: alpaca}, eval: {source: b.csv.gz}}",
        "data: {train: [a.jsonl, {source: 'rows/*.parquet', max_rows: 5, weight: 0.5, columns: {prompt: question}}]}",
        "data: {columns: null, truncation: null, format: glaive, transcript: {speaker: Ann, stride: null}}",
        "data: {min_tokens: 8, max_tokens: null, dedupe: near, near_duplicates: 1, leakage: keep, max_bad_rows: 0.01}",
    ],
)
def test_valid_recipes_are_taken(body: str) -> None:
    assert [e.message for e in VALIDATOR.iter_errors(read_text(body, "x")[0])] == []


def test_the_table_of_our_own_keys_is_whole() -> None:
    assert field_of("model.dtype") is SECTIONS["model"]["dtype"]
    assert field_of("data.sample.train") is not None
    assert field_of("layers") is TOP["layers"]
    assert field_of("model.nothing") is None
    assert not set(SECTIONS) & set(UPSTREAM)
    every: dict[str, Any] = {f"{s}.{k}": f for s, fields in SECTIONS.items() for k, f in fields.items()} | dict(TOP)
    assert [key for key, field in every.items() if not field.doc.endswith(".")] == []


def test_a_new_format_is_a_new_choice_and_sources_are_read_as_they_are_written() -> None:
    from nothing_tune import formats
    from nothing_tune.data import sources
    from nothing_tune.recipe.schema import SOURCE, SOURCES

    choices = ("auto", *formats.names())
    assert (SECTIONS["data"]["format"].choices, SOURCE["format"].choices) == (choices, choices)
    assert tuple(SOURCE) == sources.KEYS
    assert all(field_of(key) for key in SOURCES)
    assert field_of("data.train.weight") is SOURCE["weight"]


def test_the_table_describes_what_is_managed_and_refused_by_its_name() -> None:
    from nothing_tune.recipe.names import OTHER, PEFT_RULES, REMOVED, TRAINING_RULES
    from nothing_tune.recipe.ranges import ADVISED, RANGES

    assert set(TRAINING_RULES) <= set(options("SFTConfig"))
    assert set(PEFT_RULES) <= set(options("LORA"))
    assert {verb for verb, _ in TRAINING_RULES.values()} == {"managed", "refused"}
    assert not set(REMOVED["training"]) & set(options("SFTConfig"))
    for section, names in OTHER.items():
        known = (
            set(options({"training": "SFTConfig", "quantization": "BitsAndBytesConfig", "peft": "LORA"}[section]))
            if section in UPSTREAM
            else set(SECTIONS.get(section, {})) | (set() if section else {*SECTIONS, *UPSTREAM, *TOP})
        )
        assert not set(names) & known, section
    for key in (*RANGES, *ADVISED):
        section, name = key.split(".")[:2]
        if section == "training":
            assert name in options("SFTConfig"), key
