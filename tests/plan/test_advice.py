"""Every rule of advice: a recipe that triggers it, with its exact text, and that its own changes settle it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune.errors import PlanError, RecipeError
from nothing_tune.plan import Plan, make_plan
from nothing_tune.plan.advice import RULES, Advice, Facts, advise, compatible, name_of, settled
from nothing_tune.plan.architecture import shape
from nothing_tune.plan.maths import maths
from nothing_tune.plan.memory import Change, Estimate
from nothing_tune.plan.rows import GIVEN, Rows
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.advice import ADVICE
from nothing_tune.recipe.model import Recipe

SAID = Path(__file__).parent / "advice.yaml"
"""What the rules say in `CASES`, in their order."""
PAGE = Path(__file__).parents[2] / "docs/advice.md"
BASE = ("model.name_or_path=org/model", "data.train=rows.jsonl")
CONFIG = {
    "model_type": "llama", "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "num_key_value_heads": 8,
    "head_dim": 128, "intermediate_size": 8192, "vocab_size": 128256, "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA = shape(CONFIG)
CAPPED = shape({**CONFIG, "model_type": "gemma2"})
MIXED = shape({**CONFIG, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2})
SHORT = shape({**CONFIG, "max_position_embeddings": 4096})
ROWS = 11_111


@pytest.fixture(autouse=True, scope="module")
def _share_of_the_data_sheet() -> Iterator[None]:
    """The texts below hold numbers of what a GPU leaves to use: 95 % here, whatever was measured since."""
    with pytest.MonkeyPatch.context() as patch:
        told = "nothing_tune.plan.memory.usable"
        patch.setattr(told, lambda gpu: int(gpu["memory_gb"] * 0.95e9) if gpu.get("memory_gb") else None)
        yield


@cache
def recipe(gpu: str = "l4", with_: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(None, gpu=gpu, with_=with_, overrides=BASE)


def held(plan: Plan, total: int = ROWS) -> Rows:
    """`total` rows, of which the plan's share is held out."""
    share = plan.data["eval"] if isinstance(plan.data["eval"], float) else 0.0
    evaluated = round(total * share) if plan.training.get("eval_strategy") != "no" else 0
    return Rows(GIVEN, train=total - evaluated, eval=evaluated)


def of(total: int) -> Callable[[Plan], Rows]:
    return lambda plan: held(plan, total)


def estimate(plan: Plan, weights: float, optimizer: float, per_token: float) -> Estimate:
    """Memory that grows as an estimate does; 20 times the activations where they are kept."""
    rows, length = plan.training["per_device_train_batch_size"], plan.training["max_length"] or 1024
    keeps = 1 if plan.training.get("activation_checkpointing") else 20
    state = optimizer / 4 if "8bit" in plan.training["optim"] else optimizer
    terms = {
        "weights": int(weights), "adapters": 0, "gradients": 0, "optimizer": int(state),
        "activations": int(per_token * rows * length * keeps), "logits": 0, "context": 0, "fragmentation": 0,
    }  # fmt: skip
    peak = sum(terms.values())
    return Estimate(terms, peak, peak, peak, rows, length, "arithmetic")


def used(plan: Plan) -> Estimate:
    return estimate(plan, 2.5e9, 2e8, 2e5)


def kept(plan: Plan) -> Estimate:
    off = {**plan.training, "activation_checkpointing": False}
    return estimate(replace(plan, training=off), 2.5e9, 2e8, 2e5)


def tight(plan: Plan) -> Estimate:
    return estimate(plan, 1.93e10, 2e8, 2e5)


def kept_tight(plan: Plan) -> Estimate:
    return estimate(replace(plan, training={**plan.training, "activation_checkpointing": False}), 1.93e10, 2e8, 2e5)


def heavy(plan: Plan) -> Estimate:
    return estimate(plan, 6e9, 8e9, 2e5)


def change(*words: str) -> Change:
    return Change(words, Estimate({}, 0, 0, 0, 1, 1, "arithmetic"), "fits")


@dataclass(frozen=True)
class Case:
    """What triggers a rule, and what it then says."""

    rule: str
    over: Mapping[str, Any]
    gpu: str = "l4"
    rows: Callable[[Plan], Rows] = held
    facts: Mapping[str, Any] = field(default_factory=dict)
    with_: tuple[str, ...] = ()

    def seen(self, plan: Plan) -> Facts:
        """The plan with the facts of this case, those that are functions asked anew."""
        rows = self.rows(plan)
        told = {k: v(plan) if callable(v) else v for k, v in self.facts.items()}
        return Facts(plan=plan, rows=rows, maths=maths(rows, plan), **told)


def planned(gpu: str, over: Mapping[str, Any], with_: tuple[str, ...] = ()) -> Plan:
    """The plan of the base recipe with some values written, without reading it anew."""
    known = recipe(gpu, with_)
    values = copy.deepcopy(known.values)
    for key, value in over.items():
        *parents, last = key.split(".")
        node = values
        for part in parents:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        node[last] = value
    return make_plan(replace(known, values=values))


B, A = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
FULL: dict[str, Any] = {"peft": None, "quantization": None, "training.learning_rate": 1e-5}
PACK = {"training.packing": True}


def packed(sequences: int, train: int = 4000) -> Callable[[Plan], Rows]:
    """Rows that packing makes `sequences` of."""
    return lambda plan: replace(held(plan, train), sequences=sequences if plan.training.get("packing") else train)


def audited(plain: float, grouped: float, packed: float, tokens: int = 4_000_000) -> Callable[[Plan], Rows]:
    """Rows with the padding that `tune data inspect` found."""
    padding = {"plain": plain, "grouped": grouped, "packed": packed}

    def rows(plan: Plan) -> Rows:
        told = (
            {**padding, "plain": 0.02}
            if plan.training.get("packing") or plan.training.get("train_sampling_strategy") == "group_by_length"
            else padding
        )
        return replace(
            held(plan, 20_000),
            tokens=tokens,
            sequences=(tokens // 1000 if plan.training.get("packing") else None),
            report={"train": {"padding": told}},
        )

    return rows


def binned(*bins: tuple[int, int, int]) -> Callable[[Plan], Rows]:
    """Rows of these lengths."""
    return lambda plan: replace(
        held(plan), lengths=bins, longest=min(bins[-1][1] - 1, plan.training["max_length"] or 10**9)
    )


CASES: list[Case] = [
    Case("epochs-above-three", {"training.num_train_epochs": 5}),
    Case("epochs-above-three", {"training.max_steps": 5000}),
    Case("epochs-for-much-data", {}, rows=of(150_000)),
    Case("epochs-for-much-data", {"training.max_steps": 25_000}, rows=of(150_000)),
    Case("full-on-little-data", FULL, rows=lambda plan: replace(held(plan), tokens=2_000_000), facts={"shape": LLAMA}),
    Case("few-steps", {A: 8, "training.warmup_steps": 3}, rows=of(300)),
    Case("few-steps", {"training.num_train_epochs": 1}, rows=of(480)),
    Case("few-steps", {"training.num_train_epochs": 1}, rows=of(200)),
    Case("few-steps", {}, rows=of(60)),
    Case("deadline-before-end", {"checkpoint.deadline": "6h"}, facts={"hours": 13.0}),
    Case("global-batch-small", {B: 2, A: 1}),
    Case("global-batch-small", {B: 3, A: 2}),
    Case("global-batch-large", {B: 8, A: 8}),
    Case("global-batch-large", {B: 64, A: 1}),
    Case("batch-above-rows", {B: 8, A: 4}, rows=of(20)),
    Case("batch-above-rows", {B: 8}, rows=of(6)),
    Case(
        "batch-above-rows",
        {B: 64, A: 4},
        rows=of(200),
        facts={"memory": heavy, "changes": lambda plan: (change(f"{B}=2", f"{A}=4"),)},
    ),
    Case("rows-dropped", {"training.dataloader_drop_last": True, B: 16, A: 1}, rows=of(100)),
    Case("rows-dropped", {"training.dataloader_drop_last": True, B: 16, A: 1}, rows=of(9)),
    Case("micro-batch-could-grow", {B: 1, A: 16}, facts={"memory": tight}),
    Case("evaluation-batch-small", {"training.per_device_eval_batch_size": 1}),
    Case("attention-refused", {}, facts={"shape": CAPPED}),
    Case("fp16-with-bf16-hardware", {"training.fp16": True}),
    Case(
        "fp16-with-bf16-hardware",
        {"training.fp16": True, "quantization.bnb_4bit_compute_dtype": "float16", "model.dtype": "float16"},
    ),
    Case("bf16-without-hardware", {"training.bf16": True}, gpu="cpu"),
    Case("float32-on-half-hardware", {"training.bf16": False, "training.fp16": False}),
    Case("compute-dtype-differs", {"quantization.bnb_4bit_compute_dtype": "float32"}),
    Case("base-in-float32", {"model.dtype": "float32"}),
    Case("full-in-half", {**FULL, "model.dtype": "bfloat16"}),
    Case("fp4-weights", {"quantization.bnb_4bit_quant_type": "fp4"}),
    Case(
        "no-validation", {"data.eval": None, "training.eval_strategy": "no", "training.load_best_model_at_end": False}
    ),
    Case("no-validation", {"training.eval_strategy": "no", "training.load_best_model_at_end": False}),
    Case("no-validation", {"data.eval": 0.01}, rows=of(40)),
    Case("no-validation", {"data.eval": 0.2}, rows=of(2)),
    Case("validation-few-rows", {}, rows=of(250)),
    Case("validation-few-rows", {}, rows=of(100)),
    Case("validation-share", {"data.eval": 0.4}),
    Case("validation-share", {"data.eval": 0.4}, rows=of(200)),
    Case("evaluation-rare", {"training.eval_strategy": "epoch"}),
    Case("evaluation-rare", {"training.eval_steps": 1500}),
    Case("evaluation-rare", {"training.eval_steps": 100}, rows=of(400)),
    Case("evaluation-rare", {"training.eval_steps": 50, "training.num_train_epochs": 2.5}, rows=of(420)),
    Case("evaluation-costs", {"training.eval_steps": 20}),
    Case(
        "evaluation-costs",
        {
            "data.eval": 0.2,
            "training.num_train_epochs": 1,
            "training.eval_on_start": True,
            "training.eval_steps": 20,
            "training.activation_checkpointing": False,
        },
    ),
    Case("evaluation-costs", {"data.eval": "eval.jsonl"}, rows=lambda plan: Rows(GIVEN, train=1000, eval=20_000)),
    Case("saves-at-odds", {"training.save_steps": 250}),
    Case("best-not-kept", {"training.load_best_model_at_end": False}),
    Case("patience-never-reached", {"monitor.early_stopping_patience": 20}),
    Case("logging-interval", {"training.logging_steps": 200}),
    Case("logging-interval", {"training.logging_steps": 1}),
    Case("learning-rate", {"training.learning_rate": 2e-5}, facts={"shape": LLAMA}),
    Case("learning-rate", {"training.learning_rate": 6e-4}, facts={"shape": LLAMA}),
    Case("learning-rate", {"training.learning_rate": 3e-4, "model.parameters_b": 13.0}),
    Case("learning-rate", {**FULL, "training.learning_rate": 2e-4}, facts={"shape": LLAMA}),
    Case("learning-rate", {"training.learning_rate": 2e-4}, with_=("methods/vera",), facts={"shape": LLAMA}),
    Case("warmup-share", {"training.warmup_steps": 300}),
    Case("warmup-share", {"training.warmup_steps": 900}),
    Case("warmup-share", {"training.warmup_steps": 3000}),
    Case("warmup-share", {"training.warmup_steps": 0}),
    Case("no-decay", {"training.lr_scheduler_type": "constant"}),
    Case("restarts-once", {"training.lr_scheduler_type": "cosine_with_restarts"}),
    Case("weight-decay-high", {"training.weight_decay": 0.1}),
    Case("gradients-unclipped", {"training.max_grad_norm": 0.0}),
    Case("loss-spikes-unwatched", {"monitor.loss_spike": None, "training.learning_rate": 4e-4}),
    Case("alpha-to-rank", {"peft.lora_alpha": 64}),
    Case("alpha-to-rank", {"peft.lora_alpha": 4}),
    Case("alpha-to-rank", {"peft.use_rslora": True, "peft.r": 64, "peft.lora_alpha": 128}),
    Case("rank-without-rslora", {"peft.r": 64, "peft.lora_alpha": 128}),
    Case("few-targets", {"peft.target_modules": ["q_proj", "v_proj"]}, facts={"shape": LLAMA}),
    Case("few-targets", {"peft.target_modules": None}),
    Case("few-targets", {"peft.target_modules": ["q_proj", "v_proj"]}, facts={"shape": MIXED}),
    Case("targets-not-there", {"peft.target_modules": ["query_key_value", "dense"]}, facts={"shape": LLAMA}),
    Case(
        "targets-not-there", {"peft.target_modules": ["q_proj", "k_proj", "v_proj", "out_proj"]}, facts={"shape": LLAMA}
    ),
    Case("no-dropout", {"peft.lora_dropout": 0.0}, rows=of(600)),
    Case("dropout-refused", {}, facts={"shape": MIXED}),
    Case("packing-worth-it", {}, rows=audited(0.45, 0.05, 0.02)),
    Case("packing-worth-it", {}, rows=audited(0.45, 0.05, 0.02, tokens=400_000)),
    Case("packing-with-few-rows", PACK, rows=packed(200)),
    Case("packing-gains-nothing", PACK, rows=packed(3500)),
    Case("rows-cut", {}, rows=binned((0, 512, 7000), (512, 1025, 1500), (1025, 2048, 490), (2048, 4096, 10))),
    Case(
        "rows-cut",
        {"data.truncation": "drop"},
        rows=binned((0, 512, 6000), (512, 1025, 1000), (1025, 2048, 2000)),
        facts={"memory": tight},
    ),
    Case(
        "length-above-context",
        {"training.max_length": 8192},
        rows=lambda plan: replace(held(plan), longest=min(6000, plan.training["max_length"])),
        facts={"shape": SHORT},
    ),
    Case("checkpointing-needed", {B: 16, A: 1, "training.activation_checkpointing": False}, facts={"memory": used}),
    Case("checkpointing-wasteful", {B: 1, A: 16}, facts={"memory": used, "without_checkpointing": kept}),
    Case("optimizer-state-large", FULL, facts={"memory": heavy}),
    Case("adam-8bit-pointless", {"training.optim": "adamw_8bit"}, facts={"memory": used}),
    Case("pin-memory", {"training.dataloader_pin_memory": True}, gpu="cpu"),
    Case("pin-memory", {"training.dataloader_pin_memory": False}, gpu="a100-80gb"),
    Case("workers", {"training.dataloader_num_workers": 0}, facts={"cpus": 8}),
    Case("workers", {"training.dataloader_num_workers": 2}, gpu="cpu"),
    Case("workers", {"training.dataloader_num_workers": 4}, facts={"cpus": 2}),
    Case("workers", {"training.dataloader_num_workers": 8}, facts={"cpus": 32}),
    Case(
        "checkpoints-larger-than-disk",
        {"training.save_total_limit": 10},
        facts={"disk_free": 6 * 10**9, "checkpoint_bytes": 10**9},
    ),
    Case("checkpoints-larger-than-disk", {}, facts={"disk_free": 3 * 10**9, "checkpoint_bytes": 10**9}),
    Case("checkpoints-larger-than-disk", {}, facts={"disk_free": 10**9, "checkpoint_bytes": 2 * 10**9}),
    Case("saves-rare", {"checkpoint.max_loss_minutes": None, "training.save_steps": 1000}, facts={"hours": 10.0}),
    Case("saves-rare", {"checkpoint.max_loss_minutes": None, "training.save_steps": 5000}, facts={"hours": 10.0}),
]


def words(over: Mapping[str, Any]) -> tuple[str, ...]:
    """The values as words of a command line."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in over.items())


def values(changes: tuple[str, ...]) -> dict[str, Any]:
    """The words of advice as values."""
    return {
        key: yaml.safe_load(re.sub(r"^(\d+)e", r"\1.0e", value))
        for key, _, value in (w.partition("=") for w in changes)
    }


def told(facts: Facts, rule: str) -> list[Advice]:
    return [one for one in advise(facts) if one.rule == rule]


QUIET_FACTS: dict[str, Any] = {
    "shape": LLAMA,
    "memory": tight,
    "without_checkpointing": kept_tight,
    "hours": 10.0,
    "disk_free": 10**12,
    "checkpoint_bytes": 10**9,
    "cpus": 8,
}
QUIET: list[Case] = [
    Case("epochs-above-three", {"training.num_train_epochs": 3}),
    Case("epochs-above-three", {"training.num_train_epochs": 8, "monitor.early_stopping_patience": 3}),
    Case("epochs-for-much-data", {"training.num_train_epochs": 2, "data.eval": 0.02}, rows=of(500_000)),
    Case("full-on-little-data", FULL, rows=lambda plan: replace(held(plan), tokens=4_000_000)),
    Case("few-steps", {"training.num_train_epochs": 3}, rows=of(300)),
    Case("few-steps", {"training.max_steps": 5}),
    Case("deadline-before-end", {"checkpoint.deadline": "10h"}),
    Case("global-batch-small", {B: 4, A: 2}),
    Case("global-batch-small", {B: 1, A: 8, "launch.processes": 4}),
    Case("global-batch-large", {B: 4, A: 8}),
    Case("batch-above-rows", {}, rows=of(18)),
    Case("rows-dropped", {"training.dataloader_drop_last": True}),
    Case("micro-batch-could-grow", {B: 2, A: 8}, facts={"memory": used}),
    Case("micro-batch-could-grow", {B: 1, A: 16}, facts={"memory": used}, gpu="cpu"),
    Case("micro-batch-could-grow", {B: 1, A: 16}, facts={"changes": (change(f"{B}=8", f"{A}=2"),)}),
    Case("evaluation-batch-small", {"training.per_device_eval_batch_size": 8}),
    Case("evaluation-batch-small", {B: 512, A: 1}, facts={"memory": heavy}),
    Case("attention-refused", {"model.attn_implementation": "eager"}, facts={"shape": CAPPED}),
    Case("fp16-with-bf16-hardware", {}, gpu="t4"),
    Case("bf16-without-hardware", {"training.bf16": True}),
    Case("float32-on-half-hardware", {}, gpu="cpu"),
    Case("compute-dtype-differs", {}, gpu="t4"),
    Case("base-in-float32", FULL),
    Case("full-in-half", FULL),
    Case("fp4-weights", {"quantization": None}),
    Case("no-validation", {"data.eval": "eval.jsonl"}),
    Case("validation-few-rows", {}, rows=of(300)),
    Case("validation-share", {"data.eval": 0.2}),
    Case("evaluation-rare", {"training.eval_steps": 460}),
    Case("evaluation-costs", {"training.eval_steps": 50}),
    Case("saves-at-odds", {"training.save_steps": 50}),
    Case("saves-at-odds", {"training.save_steps": 250, "training.load_best_model_at_end": False}),
    Case("best-not-kept", {"training.load_best_model_at_end": False, "training.eval_strategy": "no"}),
    Case("patience-never-reached", {"monitor.early_stopping_patience": 18}),
    Case("logging-interval", {"training.logging_steps": 1}, rows=of(3000)),
    Case("learning-rate", {"training.learning_rate": 1e-4}),
    Case("learning-rate", {"training.learning_rate": 5e-4}),
    Case("learning-rate", {"training.learning_rate": 3e-3}, facts={"shape": None}),
    Case("learning-rate", {"training.learning_rate": 1e-6, "training.optim": "sgd"}),
    Case("learning-rate", {}, with_=("methods/ia3",)),
    Case("learning-rate", {}, with_=("methods/full",)),
    Case("warmup-share", {"training.warmup_steps": 187}),
    Case("warmup-share", {"training.warmup_steps": 0.1}, rows=of(60)),
    Case("no-decay", {"training.lr_scheduler_type": "linear"}),
    Case(
        "restarts-once",
        {"training.lr_scheduler_type": "cosine_with_restarts", "training.lr_scheduler_kwargs": {"num_cycles": 2}},
    ),
    Case("weight-decay-high", {"training.weight_decay": 0.01}),
    Case("gradients-unclipped", {"training.max_grad_norm": 0.3}),
    Case("loss-spikes-unwatched", {"monitor.loss_spike": None}),
    Case("alpha-to-rank", {"peft.lora_alpha": 16}),
    Case("alpha-to-rank", {}, with_=("methods/rslora",)),
    Case("rank-without-rslora", {}, with_=("methods/rslora",)),
    Case("rank-without-rslora", {"peft.r": 16}),
    Case("few-targets", {"peft.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
    Case("targets-not-there", {"peft.target_modules": ["q_proj", "mlp.down_proj", "embed_tokens"]}),
    Case("no-dropout", {"peft.lora_dropout": 0.0}),
    Case("no-dropout", {}, with_=("methods/pissa",), rows=of(500)),
    Case("no-dropout", {"peft.lora_dropout": 0.0}, rows=of(500), facts={"shape": MIXED}),
    Case("dropout-refused", {}),
    Case("dropout-refused", {"peft.lora_dropout": 0.0}, facts={"shape": MIXED}),
    Case("dropout-refused", {"peft.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}, facts={"shape": MIXED}),
    Case("packing-worth-it", {}, rows=audited(0.2, 0.05, 0.02)),
    Case("packing-with-few-rows", PACK, rows=packed(400)),
    Case("packing-gains-nothing", PACK, rows=packed(1200)),
    Case("rows-cut", {}, rows=binned((0, 512, 7000), (512, 1025, 1990), (1025, 2048, 10))),
    Case("rows-cut", {"data.truncation": "split"}, rows=binned((0, 512, 7000), (1025, 2048, 1990))),
    Case(
        "length-above-context",
        {"training.max_length": 8192},
        rows=lambda plan: replace(held(plan), longest=4000),
        facts={"shape": SHORT},
    ),
    Case("checkpointing-needed", {B: 16, A: 1}, facts={"memory": used}),
    Case("checkpointing-wasteful", {"training.activation_checkpointing": False}),
    Case("optimizer-state-large", {}),
    Case("adam-8bit-pointless", {**FULL, "training.optim": "adamw_8bit"}, facts={"memory": used}),
    Case("pin-memory", {"training.dataloader_pin_memory": False}, gpu="t4"),
    Case("workers", {"training.dataloader_num_workers": 0}, facts={"cpus": 1}),
    Case("checkpoints-larger-than-disk", {}, facts={"disk_free": 5 * 10**9}),
    Case("saves-rare", {"checkpoint.max_loss_minutes": None, "training.save_steps": 100}),
]


def test_every_rule_has_a_name_a_case_and_a_case_that_it_passes_over() -> None:
    assert [name_of(rule) for rule in RULES] == list(ADVICE)
    assert {case.rule for case in CASES} == set(ADVICE) == {case.rule for case in QUIET}
    assert all(doc.endswith(".") and rule.__doc__ for doc, rule in zip(ADVICE.values(), RULES, strict=True))


def test_what_each_rule_says() -> None:
    for case, want in zip(CASES, yaml.load(SAID.read_text(encoding="utf-8"), yaml.CSafeLoader), strict=True):
        (got,) = told(case.seen(planned(case.gpu, case.over, case.with_)), case.rule)
        assert got.source
        assert got.key
        said = {"rule": got.rule, "severity": got.severity, "what": got.what, "why": got.why, "changes": [*got.changes]}
        assert said == want


@pytest.mark.engine  # takes seconds
def test_the_changes_settle_it() -> None:
    seen: set[str] = set()
    for case in CASES:
        (got,) = told(case.seen(planned(case.gpu, case.over, case.with_)), case.rule)
        if not got.changes:
            assert ": " in got.what, f"{got.what}: what is to be done?"
            continue
        if case.rule in seen:
            plan = planned(case.gpu, {**case.over, **values(got.changes)}, case.with_)
        else:  # once a rule, as somebody would: in the words of the command line, with all that checks a recipe
            overrides = (*BASE, *words(case.over), *got.changes)
            plan = make_plan(load_recipe(None, gpu=case.gpu, with_=case.with_, overrides=overrides))
        assert told(case.seen(plan), case.rule) == [], (case.rule, got.changes)
        seen.add(case.rule)
    assert set(ADVICE) - seen == {"full-on-little-data", "deadline-before-end"}


def test_what_it_passes_over() -> None:
    for case in QUIET:
        full = replace(case, facts={**QUIET_FACTS, **case.facts})
        plan = planned(case.gpu, case.over, case.with_)
        assert told(full.seen(plan), case.rule) == [], case
    assert advise(Case("", {}, facts=QUIET_FACTS).seen(planned("l4", {}))) == []


def test_what_is_unknown_is_passed_over() -> None:
    plans = [planned(case.gpu, case.over, case.with_) for case in CASES]
    rules = {one.rule for plan in plans for one in advise(Facts(plan, Rows()))}
    assert rules == {
        "epochs-above-three", "global-batch-small", "global-batch-large", "evaluation-batch-small", "fp16-with-bf16-hardware",
        "bf16-without-hardware", "float32-on-half-hardware", "compute-dtype-differs", "base-in-float32", "full-in-half",
        "fp4-weights", "no-validation", "validation-share", "best-not-kept", "learning-rate", "no-decay", "restarts-once",
        "weight-decay-high", "gradients-unclipped", "loss-spikes-unwatched", "alpha-to-rank", "rank-without-rslora",
        "few-targets", "pin-memory", "workers",
    }  # fmt: skip


def test_warnings_come_before_advice() -> None:
    over = {"training.weight_decay": 0.1, "training.num_train_epochs": 5, B: 1, A: 4, "peft.r": 32}
    found = advise(Case("", over).seen(planned("l4", over)))
    assert [one.severity for one in found] == ["warning", "warning", "advice", "advice", "advice"]
    assert [one.rule for one in found[:2]] == ["epochs-above-three", "global-batch-small"]


def test_a_recipe_accepts_what_it_knows_better() -> None:
    over = {
        "training.num_train_epochs": 5,
        "advice.accept": {"epochs-above-three": "the source has 5", "few-steps": "so"},
    }
    plan = planned("l4", over)
    found = advise(Case("", over).seen(plan))
    open_, accepted = settled(found, plan.values)
    assert open_ == []
    assert [(one.rule, reason) for one, reason in accepted] == [("epochs-above-three", "the source has 5")]


def test_what_cannot_work_is_not_accepted() -> None:
    over = {"peft.target_modules": ["nowhere"], "advice.accept": {"targets-not-there": "I know"}}
    plan = planned("l4", over)
    open_, accepted = settled(advise(Case("", over, facts={"shape": LLAMA}).seen(plan)), plan.values)
    assert ([one.rule for one in open_], accepted) == (["targets-not-there"], [])


def test_a_page_sets_no_key_twice() -> None:
    plan = planned("l4", {B: 64, A: 1, "training.weight_decay": 0.1})
    facts = replace(Case("", {}, facts={"memory": heavy}).seen(plan))
    assert [one.rule for one in advise(facts)][:2] == ["global-batch-large", "weight-decay-high"]
    fewer, kept = change(f"{B}=4", f"{A}=16"), change("training.max_length=128")
    small = replace(facts, changes=(fewer, kept))
    assert facts.fits is False
    assert "global-batch-large" not in [one.rule for one in advise(small)]  # what makes it fit comes first
    assert compatible((fewer, kept), advise(small)) == (fewer, kept)
    assert compatible((fewer, kept), advise(facts)) == (kept,)  # what the batch should be comes first where it fits


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, gpu="l4", overrides=(*BASE, "advice.accept.epochs-above-thre=mine"))
    (problem,) = caught.value.problems
    assert (problem.what, problem.hint) == (
        "advice.accept.epochs-above-thre is not a key of advice.accept",
        "did you mean epochs-above-three?",
    )


ANY = {
    B: st.sampled_from([1, 2, 3, 4, 8, 16, 64]),
    A: st.sampled_from([1, 2, 4, 16]),
    "launch.processes": st.sampled_from([1, 1, 2]),
    "training.num_train_epochs": st.sampled_from([0.5, 1, 2, 3, 5, 20]),
    "training.max_steps": st.sampled_from([-1, -1, -1, 10, 3000]),
    "training.learning_rate": st.sampled_from([1e-6, 2e-5, 2e-4, 4e-4, 1e-3, 1e-2]),
    "training.warmup_steps": st.sampled_from([0, 0.01, 0.05, 0.5, 20, 500, 5000]),
    "training.eval_strategy": st.sampled_from(["no", "steps", "steps", "epoch"]),
    "training.eval_steps": st.sampled_from([0.1, 1, 7, 100, 1000]),
    "training.save_steps": st.sampled_from([3, 50, 100, 250]),
    "training.load_best_model_at_end": st.booleans(),
    "training.eval_on_start": st.booleans(),
    "training.packing": st.booleans(),
    "training.dataloader_drop_last": st.booleans(),
    "training.activation_checkpointing": st.booleans(),
    "training.optim": st.sampled_from(["adamw_torch_fused", "adamw_8bit", "sgd"]),
    "training.lr_scheduler_type": st.sampled_from(["cosine", "constant", "linear", "cosine_with_restarts"]),
    "training.fp16": st.sampled_from([None, True, False]),
    "data.eval": st.sampled_from([None, 0.01, 0.1, 0.2, 0.5, "eval.jsonl"]),
    "peft.r": st.sampled_from([4, 16, 64]),
    "peft.lora_alpha": st.sampled_from([1, 16, 64, 256]),
    "peft.use_rslora": st.booleans(),
    "peft.target_modules": st.sampled_from(["all-linear", ["q_proj", "v_proj"], ["dense"]]),
    "monitor.early_stopping_patience": st.sampled_from([None, None, 1, 30]),
    "training.save_total_limit": st.sampled_from([1, 3, 20]),
}


@settings(max_examples=30, deadline=None)
@given(
    over=st.fixed_dictionaries({}, optional=ANY),
    total=st.sampled_from([2, 9, 40, 300, 2000, 20_000, 300_000]),
    sequences=st.sampled_from([0.05, 0.5, 1.0]),
    gpu=st.sampled_from(["l4", "a100-80gb", "cpu"]),
    memory=st.sampled_from([used, tight, heavy]),
    disk=st.sampled_from([10**8, 5 * 10**9, 10**12]),
)
def test_no_two_pieces_of_advice_disagree(
    over: dict[str, Any], total: int, sequences: float, gpu: str, memory: Any, disk: int
) -> None:
    def rows(plan: Plan) -> Rows:
        known = held(plan, total)
        packed_ = max(1, int((known.train or 0) * sequences)) if plan.training.get("packing") else known.train
        return replace(known, sequences=packed_, tokens=300 * (known.train or 0))

    off = "activation_checkpointing"
    known = {
        "shape": LLAMA,
        "memory": memory,
        "without_checkpointing": lambda plan: memory(replace(plan, training={**plan.training, off: False})),
        "hours": 20.0,
        "disk_free": disk,
        "checkpoint_bytes": 10**9,
        "cpus": 4,
    }
    case = Case("", over, gpu=gpu, rows=rows, facts=known)
    try:
        plan = planned(gpu, over)
    except PlanError:
        return  # the processes cannot share the batch
    found = advise(case.seen(plan))
    words_ = [word for one in found for word in one.changes]
    keys = {word.partition("=")[0] for word in words_}
    assert len(set(words_)) == len(keys), words_
    assert all(values((word,)) != {} for word in words_)
    for one in found:
        if one.changes:
            after = {**over, **values(one.changes)}
            assert told(case.seen(planned(gpu, after)), one.rule) == [], (one, over)


def test_the_page_names_every_rule_with_its_source() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, doc in ADVICE.items():
        assert f"| `{name}` |" in page, name
        assert doc in page, name
