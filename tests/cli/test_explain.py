"""`tune explain`: the page of a key, of a section, and of all; names that mean another key; what it says of a wrong recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.cli.explain import listing, page
from nothing_tune.cli.show_config import Variant
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.guidance.setting import ORDER, below, known
from nothing_tune.recipe.schema import TOP

RANK = """\
peft.r  LoraConfig
  Rank: the width of the two small matrices beside each adapted layer. Trainable weights and their
  memory grow in proportion.

  here     32      nothing-gpt:{recipe}
           was 16  base/qlora:{base}
  default  16      base/qlora:{base}; upstream 8
  values   a whole number, at least 1
  usual    4 to 64 (PEFT Studio's training guide)
  unit     columns of the small matrices

alternatives
  4 to 8  few weights, fast; 8 is a common default (PEFT Studio)
  16      levelled off at an eval loss of 2.585 on 13,482 rows of dialogue (Nothing-GPT)
  32      reached 2.542 on the same data (Nothing-GPT)
  64      more capacity; feasible on an L4 for a 3B model in 4 bits (Nothing-GPT, PEFT Studio)

guidance
  Above 16 rank-stabilised scaling is advised (use_rslora: true). (PEFT Studio)
  Doubling r at the same lora_alpha halves the scale lora_alpha / r: change both, or mean it.

peft {version} says
  Lora attention dimension (the "rank").

see also
  peft.lora_alpha  peft.use_rslora  peft.target_modules

in brackets: who says so; the rest is ours
"""


def line_of(recipe: str, start: str) -> int:
    """Line of a shipped recipe that begins so."""
    rows = (Path(__file__).parents[2] / "recipes" / f"{recipe}.yaml").read_text().splitlines()
    return next(n for n, row in enumerate(rows, 1) if row.strip().startswith(start))


def test_a_page(tune: Callable[..., Any]) -> None:
    from nothing_tune.recipe.upstream import versions

    said = tune("explain", "peft.r", "nothing-gpt", "--gpu", "l4")
    filled = {"recipe": line_of("nothing-gpt", "r: 32"), "base": line_of("base/qlora", "r: 16")}
    assert said.out == RANK.format(**filled, version=versions()["peft"])
    assert (said.code, said.err) == (0, "")
    assert tune("explain", "nothing-gpt", "r", "--gpu", "l4").out == said.out


def block(text: str, label: str) -> list[str]:
    """The words of the lines of a page from a label to the next one."""
    rows = text.splitlines()
    start = next(i for i, row in enumerate(rows) if row.startswith(f"  {label}  "))
    more = rows[start + 1 :]
    end = next((i for i, row in enumerate(more) if not row.startswith("   ")), len(more))
    return [" ".join(row.split()) for row in (rows[start], *more[:end])]


CASES = [
    (
        ("per_device_train_batch_size", "nothing-gpt", "--gpu", "t4"),
        "here",
        ["here 2 nothing-gpt gpus.t4:{}", "was 8 nothing-gpt:{}", "was 4 base/qlora:{}"],
    ),
    (("fp16", "--gpu", "t4"), "here", ["here true derived: t4 has no bfloat16"]),
    (("training.learning_rate=0.5",), "here", ["here 0.5 command line", "was 2e-4 base/qlora:{}"]),
    (("lr", "training.learning_rate=2e-4"), "here", ["here 2e-4 command line"]),
    (("lr",), "usual", ["usual 1e-6 to 0.01 (PEFT Studio's training guide)"]),
    (("adam_beta1",), "here", ["here not set upstream's default holds: 0.9"]),
    (("peft.r", "--with", "methods/full"), "here", ["here not set peft is null here"]),
    (
        ("feedforward_modules",),
        "here",
        ["here not set an option of IA3Config, and the method here is LORA (--with methods/ia3)"],
    ),
    (("feedforward_modules", "--with", "methods/ia3"), "here", ["here [down_proj] methods/ia3:{}"]),
    (
        ("peft.loftq_config.loftq_bits", "--with", "methods/ia3"),
        "values",
        ["values a whole number; 2, 4 or 8"],
    ),
    (("generate.groups.A1.sampling.temperature", "marco"), "here", ["here 0.6 marco:{}"]),
    (("save_total_limit",), "managed", ["managed tune removes old checkpoints itself, and never the best one"]),
    (("output_dir",), "refused", ["refused the run directory decides: tune train --runs-dir FOLDER"]),
    (("data.truncation",), "default", ["default follows the packing strategy: right, or split with bfd_split"]),
]


def test_values_and_why(tune: Callable[..., Any]) -> None:
    import re

    for words, label, expected in CASES:
        said = tune("explain", *words)
        assert said.code == 0, words
        found = [re.sub(r":\d+$", ":{}", row) for row in block(said.out, label)]
        assert found == expected, words


NOTES = {
    "warmup_ratio": "upstream has removed warmup_ratio: write warmup_steps: ...; below 1 it is a share of all steps",
    "gradient_checkpointing": "training.gradient_checkpointing is the older name of training.activation_checkpointing",
    "ray_scope": "upstream has removed ray_scope: remove the line",
}


def test_other_names(tune: Callable[..., Any]) -> None:
    for word, note in NOTES.items():
        said = tune("explain", word)
        assert (said.code, said.out.splitlines()[0]) == (0, note), word
    assert tune("explain", "warmup_ratio").out.splitlines()[2] == "training.warmup_steps  SFTConfig"
    assert len(tune("explain", "ray_scope").out.splitlines()) == 1
    rows = tune("explain", "seed").out.splitlines()
    assert rows[0] == "seed is the name of 2 keys"
    assert [row.split()[0] for row in rows[2:]] == ["training.seed", "generate.sampling.seed"]
    assert [r["key"] for r in tune("explain", "seed", "--json").json()["candidates"]] == [
        row.split()[0] for row in rows[2:]
    ]


ERRORS = [
    (("lerning_rate",), "error: there is no key lerning_rate\n  hint: did you mean training.learning_rate?\n"),
    (("zebra",), "error: there is no key zebra\n  hint: tune explain lists all keys\n"),
    (
        ("marco",),
        "error: marco is a recipe, not a key\n"
        "  hint: tune show-config marco shows its values; tune explain KEY marco explains one\n",
    ),
    (
        ("r", "marco", "quickstart"),
        "error: two recipes are given: marco and quickstart\n  hint: an override is written KEY=VALUE, without spaces\n",
    ),
]


def test_errors(tune: Callable[..., Any]) -> None:
    for words, text in ERRORS:
        said = tune("explain", *words)
        assert (said.code, said.out, said.err) == (2, "", text)
    said = tune("explain", "r", "no-such-recipe")
    assert (said.code, said.out) == (2, "")


def test_a_wrong_recipe_still_explains(tune: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("layers: [base/qlora]\npeft: {r: -1}\n")
    said = tune("explain", "peft.r", "bad.yaml", "--gpu", "cpu")
    assert said.code == 2
    assert "Rank: the width" in said.out
    assert block(said.out, "here")[0].startswith("here 16 base/qlora:")
    assert said.err.splitlines()[:2] == [
        "the recipe has 1 problem: the values shown are those of base/qlora",
        "error: peft.r must be at least 1, not -1",
    ]
    assert tune("explain", "peft.r", "bad.yaml", "--gpu", "cpu", "--json").json()["exit_code"] == 2


def test_sections(tune: Callable[..., Any]) -> None:
    said = tune("explain", "training", "nothing-gpt", "--gpu", "l4").out
    rows = said[said.index("keys  with their values in nothing-gpt --gpu l4") :].splitlines()
    assert rows[1].split()[:2] == ["max_length", "1024"]
    assert any(row.split()[:2] == ["per_device_train_batch_size", "8"] for row in rows)
    assert said.count("more  of SFTConfig, as upstream describes them") == 1
    assert "methods/ia3" in tune("explain", "peft").out
    assert "target" in tune("explain", "generate.groups.A1", "marco").out
    data = tune("explain", "peft", "--json").json()
    assert [k["key"] for k in data["keys"]][:3] == ["peft.peft_type", "peft.task_type", "peft.r"]
    assert data["keys"][2]["value"] == 16


def test_the_overview_names_every_section_and_its_keys(tune: Callable[..., Any]) -> None:
    said = tune("explain")
    assert [row.split()[0] for row in said.out.splitlines() if row and row[0] != " "] == ["recipe", *ORDER, "tune"]
    shown = set(said.out.split())
    assert {key.rpartition(".")[2] for name in ORDER for key in below(name)[0]} <= shown
    assert set(TOP) <= shown
    assert len(said.out.splitlines()) < 60
    data = tune("explain", "--json").json()["sections"]
    assert [s["section"] for s in data] == ["recipe", *ORDER]
    assert all(k["what"] for s in data for k in s["keys"])


def test_json_has_all_of_the_page(tune: Callable[..., Any]) -> None:
    data = tune("explain", "bf16", "marco", "--gpu", "t4", "--json").json()
    assert (data["key"], data["class"], data["recipe"]) == ("training.bf16", "SFTConfig", "marco --gpu t4")
    assert data["here"]["value"] is False
    assert data["here"]["rule"] == "t4 has no bfloat16"
    assert {"value", "effect", "sources"} == set(data["alternatives"][0])
    assert data["guidance"][0]["sources"] == ["Nothing-GPT, training configuration reference"]
    assert data["upstream"]["doc"].startswith("Whether to use bfloat16")


@pytest.mark.engine  # takes seconds
def test_every_page_fits_and_has_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("marco", gpu="l4")
    variant = Variant("marco", recipe, make_plan(recipe))
    seen = 0
    for columns, keys in ((100, known()), (60, known()[::5])):
        monkeypatch.setattr(page, "columns", lambda columns=columns: columns)
        for key in keys:
            section = any(below(key)) and "." not in key
            rows = (listing.section if section else page.lines)(key, variant, "LORA")
            assert [r for r in rows if len(r) > columns and len(r.split()) > 3] == []
            labels = {row.split()[0] for row in rows if row.startswith("  ") and row.split()}
            if section:
                assert any(row.startswith("keys") for row in rows), key
            else:
                assert labels >= {"values", "unit"}, key
                assert labels >= {"here", "default"} or "refused" in labels, key
            seen += 1
    assert seen > 400


EVERYDAY = (
    ("batch_size", "training.per_device_train_batch_size"), ("batch", "training.per_device_train_batch_size"),
    ("lr", "training.learning_rate"), ("epochs", "training.num_train_epochs"), ("context", "training.max_length"),
    ("seq_len", "training.max_length"), ("max_seq_len", "training.max_length"), ("alpha", "peft.lora_alpha"),
    ("dropout", "peft.lora_dropout"), ("rank", "peft.r"), ("quantize", "quantization"), ("gpu", "gpu"),
    ("seed", "training.seed"), ("packing", "training.packing"), ("fp16", "training.fp16"), ("eval", "data.eval"),
    ("save", "training.save_steps"), ("steps", "training.max_steps"), ("wandb", "tracking.tracker"),
    ("checkpointing", "training.activation_checkpointing"), ("target_modules", "peft.target_modules"),
    ("modules", "peft.target_modules"), ("scheduler", "training.lr_scheduler_type"), ("optimizer", "training.optim"),
    ("accumulation", "training.gradient_accumulation_steps"), ("workers", "training.dataloader_num_workers"),
    ("evaluate", "training.eval_strategy"),
)  # fmt: skip


def test_everyday_names_lead_to_the_training() -> None:
    from nothing_tune.recipe.guidance.find import find

    assert {word: find(word).keys[0] for word, _ in EVERYDAY} == dict(EVERYDAY)
    said = "batch_size: write per_device_train_batch_size: ...; generate.generator.batch_size is another key"
    assert find("batch_size").note == said
    assert find("workers").note == "no key of a recipe is called workers: write dataloader_num_workers: ..."
