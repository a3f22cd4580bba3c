"""A rehearsal that proves a recipe: what is made small and how, what it tells, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nothing_tune.cli import rehearsal
from nothing_tune.engine.rehearse import architecture, causes, changes, checks, rows
from nothing_tune.errors import Problem, UsageError
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe
from tests.engine.rehearsals import CONFIGS, RECIPE, full_size, in_this_process, talk, tried, write_rows

STAGES = [
    "libraries", "data", "adapter", "model", "start", "training", "evaluation", "checkpoint", "hand-over", "resume", "reload", "merge",
]  # fmt: skip
SHIPPED = (
    "quickstart", "nothing-gpt", "marco", "function-calling", "templates/quick-start-7b", "templates/memory-optimized-13b",
    "templates/high-quality-7b",
)  # fmt: skip


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    in_this_process(monkeypatch)
    monkeypatch.setenv("TUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", talk())
    return tmp_path


# Made small ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [*CONFIGS, "qwen3_moe", "phi3", "deepseek_v3", "gpt2", "gpt_neox", "gemma3_text", "olmo2", "granite"]
)
def test_families_are_made_small_and_work(family: str) -> None:
    import torch
    import transformers

    given = {k: v for k, v in CONFIGS.get(family, {}).items() if k != "model_type"}
    config = transformers.AutoConfig.for_model(family, **given)
    made = architecture.shrink(config.to_dict())
    small = type(config).from_dict(made.config)
    assert 2 <= len(made.layers) <= architecture.MOST_LAYERS < made.depth
    assert small.vocab_size == config.vocab_size
    assert small.hidden_size <= 128
    assert small.num_attention_heads % (getattr(small, "num_key_value_heads", None) or 1) == 0
    assert getattr(small, "sliding_window", None) == getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    assert kinds is None or set(small.layer_types) == set(kinds)
    model = transformers.AutoModelForCausalLM.from_config(small)
    with torch.no_grad():
        logits = model(input_ids=torch.arange(8)[None], use_cache=False).logits
    assert logits.shape == (1, 8, small.vocab_size)
    assert bool(torch.isfinite(logits).all())
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "router" not in name and not name.endswith(".gate"):
            assert module.in_features % 64 == 0, name


def test_layers_that_an_adapter_names_stay() -> None:
    config = {**CONFIGS["llama"], "vocab_size": 8}
    made = architecture.shrink(config, wanted=[27])
    assert made.layers == (0, 27)
    assert architecture.shrink(config).layers == (0, 1)
    assert architecture.shrink({**config, "layer_types": ["a"] * 27 + ["b"]}).layers == (0, 27)
    assert architecture.shrink({**config, "mlp_only_layers": [3]}).config["mlp_only_layers"] == [1]
    assert architecture.shrink(config, widths=False).config["hidden_size"] == 3072


# The plan -----------------------------------------------------------------------------------------------------------------


def plan_of(folder: Path, *overrides: str, gpu: str = "l4") -> Any:
    (folder / "tried.yaml").write_text(RECIPE % "org/name")
    return make_plan(load_recipe(folder / "tried.yaml", gpu=gpu, overrides=list(overrides)))


def test_what_a_cpu_cannot_is_replaced_and_told(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, "training.optim=paged_adamw_8bit", "model.attn_implementation=flash_attention_2", "training.tf32=true",
        "tracking.tracker=wandb", "checkpoint.on_commit=upload", "launch.processes=2", "checkpoint.deadline=1h", "training.bf16=false",
    )  # fmt: skip
    material = changes.Material(
        model="/small", train=[("/rows", "messages")], layers=(0, 1), depth=28, vocabulary=128_256
    )
    made, said = changes.rehearsal(plan, material)
    assert said == [
        "tf32 is for GPUs",
        "optimizer paged_adamw_8bit -> adamw_8bit: paging needs a GPU",
        "attention flash_attention_2 -> sdpa: it needs a GPU",
        "fp16 -> float32: a CPU does not train in float16",
        "2 processes -> 1",
    ]
    assert made.tracking == {"tracker": "none"}
    assert made.checkpoint["on_commit"] is None
    assert made.checkpoint["deadline_s"] is None
    assert made.training["per_device_train_batch_size"] == 1
    assert made.training["learning_rate"] == plan.training["learning_rate"]
    assert made.training["lr_scheduler_type"] == plan.training["lr_scheduler_type"]
    assert made.peft == plan.peft
    assert made.trainable_dtype == plan.trainable_dtype == "float32"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["peft.target_modules=[q_proj]", "peft.layers_to_transform=[0, 13, 27]"], {"layers_to_transform": [0, 1]}),
        (
            [r"peft.target_modules='.*layers\.27\..*q_proj'"],
            {"target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]},
        ),
        (["peft.target_modules=[q_proj]", "peft.r=256"], {"target_modules": ["q_proj"], "r": 256}),
        (["peft.init_lora_weights=pissa", "quantization=null", "peft.r=64", "peft.lora_alpha=128"], {"r": 32, "lora_alpha": 64}),
        (["peft.init_lora_weights=loftq", "quantization=null", "peft.loftq_config={loftq_bits: 4}"], {"init_lora_weights": True}),
    ],
    ids=["layers", "pattern", "names", "pissa", "loftq"],
)  # fmt: skip
def test_the_adapter_fits_the_small_model(tmp_path: Path, overrides: list[str], expected: dict[str, Any]) -> None:
    targets = [f"model.layers.{i}.self_attn.q_proj" for i in (0, 13, 27)]
    material = changes.Material(model="/small", train=[], layers=(0, 27), depth=28, targets=targets)
    peft = changes.rehearsal(plan_of(tmp_path, *overrides), material)[0].peft
    assert peft is not None
    assert {k: peft[k] for k in expected} == expected


def test_places_are_those_of_the_users_data() -> None:
    places = {"/tmp/x/train-messages.jsonl": ["data.jsonl:7", "data.jsonl:90"]}
    assert rows.mapped("/tmp/x/train-messages.jsonl:2: no answer", places) == "data.jsonl:90: no answer"
    assert rows.mapped("/tmp/x/train-messages.jsonl:9", places) == "a row of the sample"


@pytest.mark.parametrize(
    ("what", "stage", "key"),
    [
        ("ValueError: Target modules {'x'} not found in the base model.", "start", "peft.target_modules"),
        ("ImportError: install galore_torch", "start", "training.optim"),
        ("IndexError: index out of range in self", "training", "model.name_or_path"),
        ("RuntimeError: something new", "merge", "peft"),
    ],
)
def test_words_of_libraries_get_a_key_and_a_cure(what: str, stage: str, key: str) -> None:
    named = causes.named(Problem(what, hint="engine.log in the run directory has the whole story"), stage)
    assert named.key == key
    assert named.hint
    assert "engine.log" not in named.hint
    own = Problem("a", key="k", hint="do; tune resume x continues at step 2")
    assert causes.named(own, "data") == Problem("a", key="k", hint="do")


def test_what_is_said_of_the_stage_is_said_once() -> None:
    rows_ = [Problem(f"rows.jsonl:{n}: there are no `messages`") for n in range(9)]
    last = Problem("9 of 20 rows are bad", key="data.max_bad_rows", hint="mend them")
    told = causes.told_once([*rows_, last], "data")
    assert told[:-1] == rows_
    assert told[-1].hint == "mend them; tune data inspect RECIPE shows the rows as the model sees them"
    alone = causes.told_once([Problem("a")], "data")
    assert alone == [Problem("a", key="data", hint="tune data inspect RECIPE shows the rows as the model sees them")]
    both = [Problem("a", key="k", hint="do"), Problem("b", key="l", hint="do that")]
    assert causes.told_once(both, "data") == both


def test_commands_are_as_they_were_typed() -> None:
    typed = ("l4", None, ["models/nano"], ["training.max_length=128"], ["peft"])
    assert rehearsal.command_line("my recipe.yaml", *typed) == (
        "tune train 'my recipe.yaml' --gpu l4 --with models/nano --unset peft training.max_length=128"
    )
    assert rehearsal.command_line("marco", *typed, do="data inspect") == (
        "tune data inspect marco --gpu l4 --with models/nano '~peft' training.max_length=128"
    )
    words = ("./small", "clean.jsonl", "lora")
    assert rehearsal.command_line("methods/lora", "l4", None, None, [], None, words) == (
        "tune train --model ./small --data clean.jsonl --method lora --gpu l4"
    )
    words_ = ("./small", "clean.jsonl", None)
    assert rehearsal.command_line("methods/qlora", "l4", None, None, ["a=1"], None, words_, "data inspect") == (
        "tune data inspect clean.jsonl --model ./small a=1"
    )


def test_only_what_never_evaluates_is_refused(tmp_path: Path) -> None:
    cases = (
        ([], 6, 1, ""),
        (["training.eval_steps=200"], None, None, ""),
        (["training.eval_strategy=epoch", "training.eval_delay=4"], 6, 0,
         "training.eval_delay is 4 epochs, and the training ends after 6 steps"),
        (["training.eval_delay=9"], 1, 0, "training.eval_delay is 9 steps, and the training ends after 1 step"),
        ([], 6, 0, "there are no rows to evaluate on"),
    )  # fmt: skip
    for overrides, total, evaluations, what in cases:
        plan = plan_of(tmp_path, "training.load_best_model_at_end=true", *overrides)
        if not what:
            checks.evaluates_in_time(plan, total, evaluations)
            continue
        with pytest.raises(UsageError) as caught:
            checks.evaluates_in_time(plan, total, evaluations)
        assert caught.value.problems[0].what == (
            f"the best checkpoint is to be handed over, and nothing is evaluated: {what}"
        )


# From end to end ----------------------------------------------------------------------------------------------------------


def test_a_full_size_architecture(here: Path) -> None:
    told = tried(here, full_size(here / "model"))
    assert list(told.stages) == STAGES
    assert {state for state, _ in told.stages.values()} == {"proved"}
    assert (
        told.stages["adapter"][1]
        == "LORA takes 196 modules of LlamaForCausalLM, 28 layers, 2,820 M parameters; 24,313,856 train"
    )
    assert "28 -> 2 layers, 3,072 -> 128 wide, all 512 tokens" in told.stages["model"][1]
    assert told.stages["resume"][1].endswith("the same losses and weights at step 4, bit for bit")
    assert told.report["could_not"][0] == "that the real weights load"


def test_layers_of_a_full_size_model_are_no_false_alarm(here: Path) -> None:
    told = tried(
        here, full_size(here / "model", "qwen2"), "peft.target_modules=[q_proj, v_proj]", "peft.layers_to_transform=[20, 35]",
        "training.eval_strategy='no'", "training.load_best_model_at_end=false", "quantization=null", gpu="t4",
    )  # fmt: skip
    assert told.stages["evaluation"][0] == "left out"
    assert told.stages["adapter"][1].startswith("LORA takes 4 modules of Qwen2ForCausalLM")
    assert told.notes == ["fp16 -> float32: a CPU does not train in float16"]


def test_large_data_is_sampled_with_its_longest_rows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "WHOLE_ROWS", 300)
    monkeypatch.setattr(rows, "MANY", 10)
    many = talk(900)
    many[700]["messages"][0]["content"] += " nothing" * 90
    write_rows(here / "rows.jsonl", many)
    (here / "tried.yaml").write_text(RECIPE % full_size(here / "model"))
    plan = make_plan(load_recipe(here / "tried.yaml", gpu="l4"))
    found = rows.look(plan, here / "some", lambda *_: None)
    assert not found["whole"]
    assert found["total"] is None
    assert 80 < found["rows"] + found["eval_rows"] < 300
    assert found["longest"] > 90
    chosen = [json.loads(line) for path, _ in found["train"] for line in Path(path).read_text().splitlines()]
    assert len(chosen) >= 8
    assert all(
        place.startswith("rows.jsonl:") or "/rows.jsonl:" in place for place in found["places"][found["train"][0][0]]
    )


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`tune train --rehearse` as a process, with temporary files in a folder whose path no socket may have."""
    temporary(folder).mkdir(exist_ok=True)
    env = {**os.environ, "TMPDIR": str(temporary(folder)), "COLUMNS": "100", "TUNE_RUNS_DIR": str(folder / "runs"),
           "PYTHONPATH": str(Path(__file__).parents[2]), "TUNE_CACHE_DIR": str(folder / "cache")}  # fmt: skip
    words = [sys.executable, "-m", "nothing_tune", "train", *arguments, "--rehearse"]
    return subprocess.Popen(words, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def temporary(folder: Path) -> Path:
    return folder / "tmp".ljust(max(108 - len(str(folder)), 3), "p")


def left(folder: Path) -> list[str]:
    """What rehearsals left behind."""
    return [p.name for p in temporary(folder).iterdir() if p.name.startswith("tune-")]


def test_the_command_and_that_nothing_stays(tmp_path: Path) -> None:
    process = command(tmp_path, "quickstart", "--gpu", "l4", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert [s["stage"] for s in told["stages"]] == STAGES
    assert told["proved"] is True
    assert told["next"] == "tune train quickstart --gpu l4"
    assert left(tmp_path) == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    process = command(tmp_path, "quickstart", "--gpu", "l4")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ok   start"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped; nothing was kept" in err
    assert left(tmp_path) == []
    time.sleep(0.5)  # nobody is left who would make it anew
    assert left(tmp_path) == []


def test_what_was_found_stands_in_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(RECIPE % "model" + "peft:\n  target_modules: [query]\n")
    recipe = load_recipe(tmp_path / "mine.yaml", gpu="l4")
    placed = rehearsal._placed(Problem("no such module", key="peft.target_modules"), recipe)
    assert (placed.place.line, placed.place.column) == (7, 19) if placed.place else False
    assert placed.layer == f"layer {len(recipe.layers)} of {len(recipe.layers)}: {recipe.layers[-1].name}"
    assert rehearsal._placed(Problem("no key"), recipe) == Problem("no key")


PAGE = """\
tried  rehearsal for l4, on the CPU of this machine
the data is not here: the recipe's sample stands for it

ok   libraries    5 s  torch 2
replaced               fp16 -> float32: a CPU does not train in float16
-    evaluation        the recipe evaluates nothing
ok   merge             merged

warning: a warning

proved         the recipe runs from end to end, in 0 s
cannot prove   speed
               memory
next           tune train x
"""


def test_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = iter(
        [
            {"type": "stage", "stage": "libraries", "state": "begins"},
            {"type": "stage", "stage": "libraries", "state": "proved", "seconds": 5.2, "what": "torch 2"},
            {"type": "progress", "what": "reading", "rows": 3},
            {"type": "note", "what": "fp16 -> float32: a CPU does not train in float16"},
            {
                "type": "stage",
                "stage": "evaluation",
                "state": "left out",
                "seconds": None,
                "what": "the recipe evaluates nothing",
            },
            {"type": "stage", "stage": "merge", "state": "proved", "seconds": 0.1, "what": "merged"},
            {"type": "report", "could_not": ["speed", "memory"], "warnings": ["a warning"]},
        ]
    )
    page = rehearsal._Page(plan_of(tmp_path), False)
    page.open(True)
    page.follow(SimpleNamespace(read=lambda: next(events)))
    page.close("tune train x", True)
    assert capsys.readouterr().out == PAGE


def test_the_sample_stands_for_data_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = f"model.name_or_path={full_size(tmp_path / 'model')}"
    recipe = load_recipe("nothing-gpt", gpu="l4", overrides=[model])
    assert rehearsal._sample_needed(recipe, make_plan(recipe)) is True
    write_rows(tmp_path / "rows.jsonl", talk(2))
    recipe = load_recipe("nothing-gpt", gpu="l4", overrides=[model, "data.train=rows.jsonl"])
    assert rehearsal._sample_needed(recipe, make_plan(recipe)) is False
    recipe = load_recipe("nothing-gpt", gpu="l4")
    with pytest.raises(UsageError, match="--rehearse --with models/nano"):
        rehearsal._sample_needed(recipe, make_plan(recipe))
    (tmp_path / "tried.yaml").write_text(RECIPE % "model")
    (tmp_path / "rows.jsonl").unlink()
    recipe = load_recipe(tmp_path / "tried.yaml", gpu="l4")
    with pytest.raises(UsageError, match=r"there is no file rows\.jsonl"):
        rehearsal._sample_needed(recipe, make_plan(recipe))


def test_the_command_that_comes_next() -> None:
    told = rehearsal.command_line("mine.yaml", "l4", None, ["models/nano"], ["data.train=my rows.jsonl"], ["peft.r"])
    assert told == "tune train mine.yaml --gpu l4 --with models/nano --unset peft.r 'data.train=my rows.jsonl'"


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_on_the_small_model(tmp_path: Path, name: str) -> None:
    process = command(tmp_path, name, "--gpu", "t4", "--with", "models/nano")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "more"),
    [
        ("nothing-gpt", "llama", []),
        ("marco", "mistral", []),
        ("function-calling", "llama", []),
        ("templates/quick-start-7b", "qwen2", []),
        ("templates/memory-optimized-13b", "qwen2", []),
        ("templates/high-quality-7b", "mistral", []),
        ("nothing-gpt", "gemma2", ["model.attn_implementation=eager"]),
        ("nothing-gpt", "mixtral", ["peft.lora_dropout=0"]),
    ],
)
def test_every_shipped_recipe_on_a_full_size_model(tmp_path: Path, name: str, family: str, more: list[str]) -> None:
    sizes = {"llama": 128_256, "qwen2": 151_936, "gemma2": 256_000}
    folder = full_size(tmp_path / "model", family, vocabulary=sizes.get(family, 32_000))
    process = command(tmp_path, name, "--gpu", "l4", f"model.name_or_path={folder}", *more)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    assert "the recipe's sample stands for it" in out
