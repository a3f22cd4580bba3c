"""What is said of each key: that every key which ships has it, that it says nothing which the tables have, and how keys are found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from nothing_tune.recipe.guidance import FREE, SOURCES, Guidance, guidance, guided, named
from nothing_tune.recipe.guidance.find import find
from nothing_tune.recipe.guidance.setting import MISSING, ORDER, below, known, setting, spec_of
from nothing_tune.recipe.library import LAYER_KINDS, library_root, names
from nothing_tune.recipe.model import leaves
from nothing_tune.recipe.ranges import RANGES
from nothing_tune.recipe.reader import read_file
from nothing_tune.recipe.schema import TOP, Field
from nothing_tune.recipe.values import kinds

NUMBERS = {"int", "float"}


def shipped() -> dict[tuple[str, str], str]:
    """`(key, PEFT type)` of every leaf of every recipe and layer, blocks of GPUs and scenarios too -> a file that has it."""
    root = library_root()
    found: dict[tuple[str, str], str] = {}
    files = [root / kind / f"{name}.yaml" for kind in LAYER_KINDS for name in names(kind)]
    files += [root / f"{name}.yaml" for name in names("recipes")]
    for path in files:
        values = read_file(path)[0]
        blocks = [b for part in ("gpus", "scenarios") for b in (values.pop(part, None) or {}).values()]
        for block in (values, *blocks):
            kind = (block.get("peft") or {}).get("peft_type", "LORA")
            for key in leaves(block):
                found.setdefault((key, kind if key.startswith("peft.") else "LORA"), path.name)
    assert len(files) > 50
    return found


SHIPPED = shipped()


def test_every_key_that_ships_is_explained() -> None:
    wrong = []
    for (key, kind), file in SHIPPED.items():
        found = setting(key, kind)
        assert found is not None, f"{key} ({file}) is no key"
        numeric = NUMBERS & set(found.types)
        faults = {
            "what it does": not re.fullmatch(r".{10,}\.", found.what, re.S),
            "unit": bool(numeric) and not found.said.unit,
            "range": bool(numeric) and found.allowed == kinds(found.types),
            "values": not found.allowed,
            "alternatives": not found.said.alternatives and key not in ORDER,
            "default": key.startswith(("training.", "quantization."))
            and not found.derived
            and found.default is MISSING
            and found.upstream is MISSING
            and "kwargs." not in key,
        }
        wrong += [f"{key} ({file}): {name}" for name, missing in faults.items() if missing]
    assert wrong == []
    distinct = {named(key) for key, _ in SHIPPED if not key.startswith(FREE)}
    assert len(distinct) == 177, "a key came or went: change the number"


def test_every_key_of_ours_is_explained() -> None:
    ours = [k for k in known() if k.partition(".")[0] not in ("training", "peft", "quantization")]
    assert [k for k in ours if guidance(k) is None] == []
    assert len(ours) > 130


def entries() -> Iterator[tuple[str, str, Guidance]]:
    """`(key, PEFT type, entry)` of all entries."""
    for name in guided():
        key, _, kind = name.partition("@")
        entry = guidance(key, kind or "LORA")
        assert entry is not None
        yield key, kind or "LORA", entry


def test_entries_are_sound() -> None:
    """Each is about a key that exists, cites known sources, points to keys that exist, and repeats no table of the recipe floor."""
    wrong = []
    for key, kind, entry in entries():
        if entry.same:
            wrong += [] if setting(entry.same) else [f"{key}: same as {entry.same}, which is no key"]
            continue
        spec = spec_of(key, kind)
        wrong += [] if setting(key, kind) else [f"{key}: no such key"]
        wrong += [f"{key}: see {other}" for other in entry.see if setting(other) is None or other == key]
        wrong += [f"{key}: what is in schema.py" for _ in [0] if entry.what and isinstance(spec, Field)]
        wrong += [f"{key}: types are known" for _ in [0] if entry.types and spec]
        tabled = isinstance(spec, Field) and (spec.low is not None or spec.high is not None or spec.choices)
        wrong += [f"{key}: its range is known" for _ in [0] if entry.range and (tabled or key in RANGES)]
        values = [a.value for a in entry.alternatives]
        wrong += [f"{key}: a value twice" for _ in [0] if len(values) != len(set(values))]
        for said in (*entry.alternatives, *entry.notes):
            wrong += [
                f"{key}: source {s}"
                for s in said.sources
                if s not in SOURCES and not re.fullmatch(r"arXiv \d{4}\.\d{5}", s)
            ]
            wrong += [f"{key}: {said.text!r}" for _ in [0] if said.text != said.text.strip() or not said.text]
    assert wrong == []
    assert len(guided()) > 200


PROSE = ("higher", "lower", "larger", "smaller", "longer", "more", "fewer", "another", "r")


def test_alternatives_are_values_that_the_key_takes() -> None:
    """A value that is written as one would type it is valid; words such as `as in training` are not looked at."""
    import yaml

    from nothing_tune.recipe.values import problem

    seen, wrong = 0, []
    for key, kind, entry in entries():
        spec = spec_of(key, kind)
        if spec is None or not set(spec.types) & {"int", "float", "bool", "str"} - (
            {"str"} if not spec.choices else set()
        ):
            continue
        for said in entry.alternatives:
            for word in said.value.split(", " if "[" not in said.value else "\0"):
                value: Any = yaml.safe_load(word) if not re.fullmatch(r"[\d.]+e-?\d+", word) else float(word)
                if isinstance(value, str) and (" " in value or "${" in value or value in PROSE):
                    continue
                seen += 1
                bare = value == "no" or (value is False and "bool" not in spec.types)
                answer = None if bare else problem(key, spec, value)
                refused = key == "training.packing_strategy" and value == "wrapped"
                wrong += [answer[0]] if answer and not refused else []
    assert wrong == []
    assert seen > 150


FACTS = [
    ("peft.r", "16", "2.585", "Nothing-GPT"),
    ("peft.r", "32", "2.542", "Nothing-GPT"),
    ("peft.r", "64", "feasible on an L4", "Nothing-GPT"),
    ("peft.lora_alpha", "r", "1.0", "Nothing-GPT"),
    ("peft.lora_alpha", "2 x r", "2.0", "Nothing-GPT"),
    ("peft.lora_dropout", "0.0", "overfits", "Nothing-GPT"),
    ("peft.lora_dropout", "0.1", "overfitting", "Nothing-GPT"),
    ("training.max_length", "512", "less memory", "Nothing-GPT"),
    ("training.max_length", "2048", "L4", "Nothing-GPT"),
    ("training.per_device_train_batch_size", "4", "half", "Nothing-GPT"),
    ("training.per_device_train_batch_size", "16", "out of memory", "Nothing-GPT"),
    ("training.gradient_accumulation_steps", "1", "noisier", "Nothing-GPT"),
    ("training.gradient_accumulation_steps", "4", "32", "Nothing-GPT"),
    ("training.learning_rate", "1e-4", "careful", "Nothing-GPT"),
    ("training.learning_rate", "3e-4", "instability", "Nothing-GPT"),
    ("training.learning_rate", "5e-4", "upper", "Marco"),
    ("training.learning_rate", "", "smaller models 2e-4 to 5e-4, larger ones 1e-4 to 2e-4", "PEFT Studio"),
    ("training.warmup_steps", "0.03", "3 %", "Marco"),
    ("training.warmup_steps", "0.05 to 0.1", "5 to 10 %", "PEFT Studio"),
    ("training.warmup_steps", "100", "faster", "Nothing-GPT"),
    ("training.warmup_steps", "500", "careful", "Nothing-GPT"),
    ("training.num_train_epochs", "1", "0.94", "Nothing-GPT"),
    ("training.num_train_epochs", "3 to 5", "small data", "PEFT Studio"),
    ("training.weight_decay", "0.01", "gentle", "Marco"),
    ("training.weight_decay", "0.1 or more", "too strong", "Marco"),
    ("training.activation_checkpointing", "true", "30 to 40 % less memory in all, 20 to 30 % more time", "PEFT Studio"),
    ("training.lr_scheduler_type", "cosine_with_restarts", "local minimum", "Nothing-GPT"),
    ("training.dataloader_num_workers", "2", "while the GPU works", "Marco"),
    ("training.eval_steps", "200", "quarter of an epoch", "Nothing-GPT"),
    ("training.save_steps", "500", "32 MB", "Marco"),
    ("training.bf16", "", "GradScaler", "Nothing-GPT"),
    ("quantization.bnb_4bit_use_double_quant", "true", "0.37 bits", "arXiv 2305.14314"),
    ("quantization.bnb_4bit_quant_type", "fp4", "slightly worse", "Nothing-GPT"),
    ("data.eval", "0.1", "10 to 20 %", "PEFT Studio"),
    ("monitor.early_stopping_threshold", "0.01", "", "PEFT Studio"),
    ("peft", "methods/rslora", "above 16", "PEFT Studio"),
    ("gpu.memory_gb", "12", "1 row", "Nemotron guide"),
]
"""What the four source documents say, transcribed by hand: key, value (empty for guidance), part of the effect, who says so."""


def test_the_sources_tables_are_told() -> None:
    for key, value, part, who in FACTS:
        entry = guidance(key)
        assert entry is not None
        rows = [s for s in (*entry.alternatives, *entry.notes) if s.value == value and part in s.text]
        assert rows, f"{key} {value}: {part}"
        assert any(who in row.names for row in rows), f"{key} {value}: {who}"


FINDS = {
    "learning_rate": ("training.learning_rate", ""),
    "Learning-Rate": ("training.learning_rate", ""),
    "r": ("peft.r", ""),
    "name": ("name", ""),
    "training": ("training", ""),
    "turns": ("data.transcript.turns", ""),
    "bf16": ("training.bf16", ""),
    "temperature": ("generate.sampling.temperature", ""),
    "generate.groups.B2.target": ("generate.groups.B2.target", ""),
    "peft.loftq_config.loftq_bits": ("peft.loftq_config.loftq_bits", ""),
    "feedforward_modules": ("peft.feedforward_modules", ""),
    "output_dir": ("training.output_dir", ""),
    "warmup_ratio": ("training.warmup_steps", "upstream has removed warmup_ratio"),
    "training.evaluation_strategy": ("training.eval_strategy", "upstream has removed evaluation_strategy"),
    "rank": ("peft.r", "no key of a recipe is called rank"),
    "lora": ("peft", "no key of a recipe is called lora"),
    "global_batch_size": ("training.per_device_train_batch_size", "no key of a recipe is called global_batch_size"),
    "gradient_checkpointing": (
        "training.activation_checkpointing",
        "training.gradient_checkpointing is the older name",
    ),
    "no_cuda": ("training.use_cpu", "upstream has removed no_cuda"),
}


def test_keys_are_found() -> None:
    for word, (key, note) in FINDS.items():
        found = find(word)
        assert found.keys == (key,), word
        assert found.note.startswith(note), word
        assert bool(found.note) == bool(note), word
    assert find("seed").keys == ("training.seed", "generate.sampling.seed")
    assert find("ray_scope").keys == ()
    assert find("ray_scope").note == "upstream has removed ray_scope: remove the line"
    assert find("training.learning_rat").near == ("training.learning_rate",)
    assert find("lerning_rate").near == ("training.learning_rate",)
    assert find("zebra") == find("training.zebra") == find("")


@pytest.mark.parametrize("kind", ["LORA", "IA3", "VERA"])
def test_an_option_of_another_method(kind: str) -> None:
    found = setting("peft.r", kind)
    assert found is not None
    assert (found.kind, found.default is MISSING) == {
        "LORA": ("LORA", False),
        "IA3": ("LORA", True),
        "VERA": ("VERA", True),
    }[kind]
    assert found.usual[0] == ("" if kind == "VERA" else "4 to 64")
    assert ("random matrices" in found.what) is (kind == "VERA")


def test_sections_hold_their_keys() -> None:
    told = {key for name in ORDER for key in below(name)[0]}
    vectors = {k for kind in ("IA3", "VERA") for k in below("peft", kind)[0]}
    assert told | set(ORDER) | set(TOP) >= {
        k for k, kind in SHIPPED if k.count(".") == 1 and kind == "LORA" and k not in vectors
    }
    assert [k.rpartition(".")[2] for k in below("data.transcript")[0]] == ["speaker", "turns", "stride"]
    assert "peft.r" not in (*below("peft", "IA3")[0], *below("peft", "IA3")[1])
    assert below("generate.groups.A1.sampling")[0][1] == "generate.groups.A1.sampling.temperature"
