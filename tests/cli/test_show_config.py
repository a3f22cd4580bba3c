"""`tune show-config`: the values, their origins, differences, and what the engine will build."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nothing_tune.recipe import load_recipe

MINE = """\
layers: [base/qlora]
name: mine
model: {name_or_path: org/model}
training:
  learning_rate: 1e-4
  run_name: mine-${gpu.slug}
  weight_decay: 0.0
gpus:
  t4: {training: {per_device_train_batch_size: 2}}
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def base_line(key: str) -> int:
    """Line of base/qlora in which a key stands."""
    place = load_recipe(gpu="l4").origins[key].place
    assert place
    return place.line


def test_values_read_back(tune: Callable[..., Any]) -> None:
    shown = tune("show-config", "mine.yaml", "--gpu", "l4")
    assert shown.code == 0
    assert shown.out.startswith(
        "# mine.yaml --gpu l4\n# layers: base/qlora · gpus/l4 · mine.yaml\n# gpu: l4\n\nname: mine\n"
    )
    values = tune("show-config", "mine.yaml", "--gpu", "l4", "--json").json()["values"]
    assert yaml.safe_load(shown.out) == values
    assert values["training"]["learning_rate"] == 1e-4
    assert list(values)[-1] == "gpu"


def test_why_lines(tune: Callable[..., Any]) -> None:
    shown = tune("show-config", "mine.yaml", "--gpu", "t4", "--why", "training.max_steps=9")
    lines = {
        line.split(":")[0].strip(): line for line in shown.out.split("\ntraining:\n")[1].split("\n\n")[0].splitlines()
    }
    said = {key: line.split("  # ")[1] for key, line in lines.items() if "  # " in line}
    n = base_line
    assert said["learning_rate"] == f"mine.yaml:5, was 0.0002 (base/qlora:{n('training.learning_rate')})"
    assert said["weight_decay"] == f"mine.yaml:7, as in base/qlora:{n('training.weight_decay')}"
    assert said["per_device_train_batch_size"].startswith("mine.yaml gpus.t4:9, was ")
    assert said["run_name"].startswith("mine.yaml:6, from mine-${gpu.slug}, was ")
    assert said["max_steps"] == f"command line, was -1 (base/qlora:{n('training.max_steps')})"
    assert said["fp16"] == "derived: t4 has no bfloat16"
    assert said["seed"] == f"base/qlora:{n('training.seed')}"
    assert yaml.safe_load(shown.out)["training"]["max_steps"] == 9


@pytest.mark.parametrize("words", [["--why", "training.learning_rate"], ["--why=training.learning_rate"]])
def test_why_key(tune: Callable[..., Any], words: list[str]) -> None:
    line = base_line("training.learning_rate")
    place = load_recipe(gpu="t4").origins["training.learning_rate"].place
    assert tune("show-config", "mine.yaml", "--gpu", "t4", *words, "training.learning_rate=3e-4").out == (
        "training.learning_rate: 0.0003\n"
        "  set by: layer 5 of 5: command line\n"
        "  shadows:\n"
        "    0.0001  layer 3 of 5: mine.yaml  mine.yaml:5:18\n"
        f"    0.0002  layer 1 of 5: base/qlora  {place}\n"
    )
    assert str(line) in str(place)


def test_why_without_recipe(tune: Callable[..., Any]) -> None:
    assert tune("show-config", "--gpu", "l4", "--why", "training.bf16").out == (
        "training.bf16: true\n  derived: l4 computes in bfloat16\n"
    )


def test_why_section(tune: Callable[..., Any]) -> None:
    lines = tune("show-config", "mine.yaml", "--gpu", "l4", "--why", "peft").out.splitlines()
    assert lines[0] == "peft:"
    assert all(line.startswith("  ") and "# base/qlora:" in line for line in lines[1:])


def test_why_json(tune: Callable[..., Any]) -> None:
    data = tune("show-config", "mine.yaml", "--gpu", "t4", "--why", "--json").json()
    told = data["why"]["training.learning_rate"]
    assert (told["layer"], told["n"], told["written"]) == ("mine.yaml", 3, 1e-4)
    assert told["place"] == {"file": "mine.yaml", "line": 5, "column": 18}
    assert told["shadowed"][0]["layer"] == "base/qlora"
    assert data["why"]["training.fp16"]["rule"] == "t4 has no bfloat16"
    one = tune("show-config", "mine.yaml", "--gpu", "t4", "--why", "--json", "training.fp16").json()
    assert list(one) == ["training.fp16"]
    assert one["training.fp16"]["value"] is True


def test_diff_gpu(tune: Callable[..., Any]) -> None:
    said = tune("show-config", "mine.yaml", "--gpu", "l4", "--diff", "t4").out
    assert said.startswith("- mine.yaml --gpu l4\n+ mine.yaml --gpu t4\n\n")
    blocks = {block.split("\n")[0]: block.split("\n")[1:] for block in said.strip().split("\n\n")[1:]}
    assert [line.split("# ")[1] for line in blocks["training.bf16"]] == [
        "derived: l4 computes in bfloat16",
        "derived: t4 has no bfloat16",
    ]
    assert blocks["training.per_device_train_batch_size"][1].split() == ["+", "2", "#", "mine.yaml", "gpus.t4:9"]
    assert "training.learning_rate" not in blocks


def test_diff_recipe_and_nothing(tune: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(MINE.replace("1e-4", "1e-5"))
    data = tune("show-config", "mine.yaml", "--gpu", "l4", "--diff", "other.yaml", "--json").json()
    assert data["variants"] == ["mine.yaml --gpu l4", "other.yaml --gpu l4"]
    assert list(data["differ"]) == ["training.learning_rate"]
    assert [side["value"] for side in data["differ"]["training.learning_rate"]] == [1e-4, 1e-5]
    assert tune("show-config", "mine.yaml", "--gpu", "l4", "--diff", "mine.yaml").out.endswith("\n\nnothing differs\n")


def test_diff_scenario(tune: Callable[..., Any]) -> None:
    said = tune("show-config", "mine.yaml", "--gpu", "l4", "--diff", "debug").out
    assert said.startswith("- mine.yaml --gpu l4\n+ mine.yaml --gpu l4 --scenario debug\n\n")
    assert "# scenarios/debug:" in said


def test_compiled(tune: Callable[..., Any]) -> None:
    parts = yaml.safe_load(tune("show-config", "mine.yaml", "--gpu", "t4", "--compiled").out)
    assert list(parts) == ["SFTConfig", "LoraConfig", "BitsAndBytesConfig", "from_pretrained"]
    assert parts["SFTConfig"]["report_to"] == "none"
    assert parts["SFTConfig"]["fp16"] is True
    assert parts["BitsAndBytesConfig"]["bnb_4bit_compute_dtype"] == "float16"
    assert "peft_type" not in parts["LoraConfig"]
    data = tune("show-config", "mine.yaml", "--gpu", "t4", "--compiled", "--json").json()
    assert data["compiled"] == parts
    assert data["why"]["SFTConfig"]["report_to"].startswith("managed: ")
    off = tune("show-config", "mine.yaml", "--gpu", "t4", "--compiled", "quantization=null").out
    assert "BitsAndBytesConfig: null  # switched off\n" in off


def test_every_leaf_has_a_reason(tune: Callable[..., Any]) -> None:
    seen = 0
    for recipe in ("mine.yaml", "nothing-gpt", "marco", "quickstart"):
        data = tune("show-config", recipe, "--gpu", "t4", "--why", "--json").json()
        for key, told in data["why"].items():
            assert told["why"], (recipe, key)
            seen += 1
    assert seen > 200


def test_narrow_terminal(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from nothing_tune.cli import console

    monkeypatch.setattr(console, "width", lambda: 60)
    lines = tune("show-config", "mine.yaml", "--gpu", "t4", "--why").out.splitlines()
    assert max(len(line) for line in lines if " # " in line) <= 60
    assert any(line.endswith("…") for line in lines)


def test_no_recipe(tune: Callable[..., Any]) -> None:
    assert tune("show-config", "--gpu", "l4").out.startswith("# base/qlora --gpu l4\n")


def test_nothing_is_written(tune: Callable[..., Any]) -> None:
    tune("show-config", "mine.yaml", "--gpu", "t4", "--why")
    assert os.listdir() == ["mine.yaml"]
