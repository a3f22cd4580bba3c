"""Folders that hold half a model: one clear text for each, the same wherever it is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from nothing_tune.engine import build, configs
from nothing_tune.engine.rehearse import model as rehearsed
from nothing_tune.engine.simulate import model as simulated
from nothing_tune.errors import UsageError
from nothing_tune.plan.model import Plan
from tests.engine.support import CHATML, tiny_tokenizer
from tests.engine.test_simulate import plan

MEND = "mend config.json, or download the model again"
COPY = "download the model again with its tokenizer, or copy the tokenizer's files of the model that it was made from"
NONE = "holds no tokenizer: it has none of tokenizer.json, tokenizer.model, vocab.json with merges.txt, vocab.txt"
SHAPE = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
    "vocab_size": 512,
}  # fmt: skip


def plan_of(folder: Path, **init: Any) -> Plan:
    """A plan that names the model in `folder`."""
    made = plan()
    return Plan.from_json({**made.to_json(), "model": {**made.model, "name_or_path": str(folder), **init}})


def problem(of: Plan) -> tuple[str, str, str]:
    """`(what, key, hint)` of what keeps the tokenizer from being loaded."""
    with pytest.raises(UsageError) as caught:
        build.tokenizer(of)
    first = caught.value.problems[0]
    return first.what, first.key, first.hint


def write(folder: Path, kind: str, **more: Any) -> Path:
    """config.json of a small model of one family."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, "architectures": ["X"], **SHAPE, **more}))
    return folder


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    for kind in ("qwen2", "gemma2", "llama", "mixtral", "gpt2"):
        folder = write(tmp_path / kind, kind)
        assert problem(plan_of(folder)) == (f"{folder} {NONE}", configs.KEY, COPY)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    assert problem(plan_of(folder))[0] == f"{folder} {NONE}"
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert configs.no_tokenizer(folder) is None
    for name in (
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer.model.v3",
        "vocab.txt",
        "spiece.model",
        "x.tiktoken",
        "tekken.json",
    ):
        other = write(tmp_path / f"with-{name}", "llama")
        (other / name).write_text("")
        assert configs.no_tokenizer(other) is None, name


def test_a_tokenizer_that_knows_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "qwen2")
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(empty))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}'
    )
    assert problem(plan_of(folder)) == (
        f"the tokenizer of {folder} is empty: it knows only 2 special tokens",
        configs.KEY,
        COPY,
    )
    half = write(tmp_path / "half", "qwen2")
    (half / "vocab.json").write_text(json.dumps({letter: n for n, letter in enumerate("abcdefgh")}))
    (half / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    assert problem(plan_of(half)) == (
        f"{half} holds half a tokenizer: it has vocab.json and no merges.txt",
        configs.KEY,
        COPY,
    )
    good = write(tmp_path / "good", "llama")
    tiny_tokenizer().save_pretrained(good)
    assert len(build.tokenizer(plan_of(good))) > 100


def test_configs_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "llama")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    for text, why in (
        (
            '{"model_type": "llama",\n',
            "is no JSON: line 2, column 1: expecting property name enclosed in double quotes",
        ),
        ("", "is no JSON: line 1, column 1: expecting value"),
        ('["llama"]', "holds no JSON object"),
    ):
        path.write_text(text)
        assert problem(plan_of(folder)) == (f"{path} {why}", configs.KEY, MEND)
        with pytest.raises(UsageError) as caught:
            simulated.config_of(plan_of(folder), None)
        assert caught.value.problems[0].what == f"{path} {why}"
    path.write_bytes(b'{"a": "\xff"}')
    assert problem(plan_of(folder))[0] == f"{path} is no JSON: byte 7 is not UTF-8"
    refused = (
        f"config.json of {folder} cannot be used: Class validation error for validator 'validate_layer_type': "
        "ValueError: `num_hidden_layers` (-2) must be equal to the number of `layer_types` (0)"
    )
    unknown = f"transformers {transformers.__version__} does not know the architecture 'foobar' of {folder}"
    for kind, changes, what, hint in (
        ("qwen2", {"num_hidden_layers": -2}, refused, MEND),
        ("foobar", {}, unknown, configs.NEWER),
        ("", {}, f"config.json of {folder} names no model_type", MEND),
    ):
        write(folder, kind, **changes)
        given = json.loads(path.read_text())
        for values in (None, given):
            for config_of in (rehearsed.config_of, simulated.config_of):
                with pytest.raises(UsageError) as caught:
                    config_of(plan_of(folder), values)
                told = caught.value.problems[0]
                assert (told.what, told.key, told.hint) == (what, configs.KEY, hint), config_of.__module__
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).rename(folder / f"{name}.away")
        assert problem(plan_of(folder)) == (what, configs.KEY, hint)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / f"{name}.away").rename(folder / name)
