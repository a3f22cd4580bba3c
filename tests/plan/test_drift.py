"""What may change when a run goes on: each key by the question whether it can change a bit of the result."""

from __future__ import annotations

import pytest

from nothing_tune.plan import drift
from nothing_tune.recipe.schema import SECTIONS

FREE = [
    "name", "description", "tracking.tracker", "tracking.tags", "training.report_to", "training.run_name",
    "training.logging_steps", "training.logging_first_step", "training.disable_tqdm", "training.save_steps",
    "training.save_strategy", "training.save_total_limit", "checkpoint.keep", "checkpoint.max_loss_minutes",
    "checkpoint.max_overhead", "checkpoint.deadline", "checkpoint.on_commit", "monitor.non_finite_steps",
    "monitor.loss_spike", "monitor.rehearse", "monitor.hang_minutes", "launch.processes", "advice.accept",
    "launch.usd_per_hour", "export", "export.adapter", "export.merge", "export.gguf", "export.gguf_adapter", "export.ollama",
    "export.vllm", "export.push", "export.private", "export.prove", "export.system", "export.checkpoint",
    "training.dataloader_num_workers", "training.dataloader_pin_memory", "training.dataloader_prefetch_factor",
    "gpu.name", "gpu.sources.bf16", "data.max_bad_rows", "data.sample", "data.sample.train", "model.facts", "model.facts.hidden_size",
    "model.license", "model.gated", "model.parameters_b",
]  # fmt: skip
FROZEN = [
    "training.learning_rate", "training.lr_scheduler_type", "training.warmup_steps", "training.optim", "training.seed",
    "training.data_seed", "training.per_device_train_batch_size", "training.gradient_accumulation_steps",
    "training.bf16", "training.packing", "training.max_length", "training.activation_checkpointing",
    # Evaluation draws random numbers, decides what is best, and when to stop.
    "training.eval_steps", "training.eval_strategy", "training.per_device_eval_batch_size", "training.eval_on_start",
    "training.load_best_model_at_end", "training.metric_for_best_model", "training.greater_is_better",
    "monitor.early_stopping_patience", "monitor.early_stopping_threshold", "training.dataloader_persistent_workers",
    "peft.r", "peft", "quantization", "quantization.load_in_4bit", "model.name_or_path", "model.revision", "model.dtype",
    "model.attn_implementation", "model.use_kernels", "model.trust_remote_code", "data.train", "data.eval",
    "data.split_seed", "data.max_samples", "data.format", "data.chat_template",
    "data.columns", "data.transcript", "data.group_by", "data.stratify_by", "data.dedupe", "data.near_duplicates",
    "data.leakage", "data.min_tokens", "data.max_tokens", "data.truncation",
]  # fmt: skip


@pytest.mark.parametrize("key", FREE)
def test_free(key: str) -> None:
    (change,) = drift.changes({key: 1}, {key: 2})
    assert change.kind == "free"


@pytest.mark.parametrize("key", FROZEN)
def test_frozen(key: str) -> None:
    (change,) = drift.changes({key: 1}, {key: 2})
    assert change.kind == "frozen"


def test_each_key_of_ours_was_thought_of() -> None:
    keys = {f"{section}.{name}" for section, fields in SECTIONS.items() if section != "gpu" for name in fields}
    assert {k for k in keys if not k.startswith(("tracking.", "generate."))} <= {*FREE, *FROZEN}


def test_a_name_is_no_beginning() -> None:
    assert not drift.is_free("names")
    assert not drift.is_free("model.facts_of_mine")


def test_extend() -> None:
    kinds = [
        drift.changes({"training.max_steps": old}, {"training.max_steps": new})[0].kind
        for old, new in ((10, 20), (20, 10), (-1, 10), (10, -1), (10, None))
    ]
    assert kinds == ["extend", "frozen", "frozen", "frozen", "frozen"]


def test_lines() -> None:
    before = {"training.save_steps": 100, "training.num_train_epochs": 3, "tracking.group": None, "launch.processes": 1}
    after = {"training.save_steps": 50, "training.num_train_epochs": 5, "tracking.group": "a b", "launch.processes": 2}
    facts = drift.changes({"gpu.name": "l4", "gpu.memory_gb": 24}, {"gpu.name": "t4", "gpu.memory_gb": 16})
    assert drift.told([*drift.changes(before, after), *facts]) == [
        "launch.processes: 1 -> 2; the rows of a step stay, and from here the result is not bit for bit that of an "
        "uninterrupted run",
        "tracking.group: null -> a b",
        "training.num_train_epochs: 3 -> 5; the learning rate follows the longer curve from here",
        "training.save_steps: 100 -> 50",
        "gpu.name: l4 -> t4; another GPU rounds otherwise: from here the result is not bit for bit that of an "
        "uninterrupted run",
    ]


@pytest.mark.parametrize(
    ("key", "before", "after", "what", "word"),
    [
        ("training.learning_rate", 2e-4, 1e-4, "was 0.0002 and would be 0.0001", "training.learning_rate=0.0001"),
        ("training.packing", False, True, "was false and would be true", "training.packing=true"),
        ("peft", {}, None, "was {} and would be null", "peft=null"),
        ("data.train", "a b", "c d", "was a b and would be c d", "'data.train=c d'"),
        ("peft.target_modules", "all-linear", ["q_proj"], 'was all-linear and would be ["q_proj"]', "'peft.target_modules=[\"q_proj\"]'"),
    ],
)  # fmt: skip
def test_refusals(key: str, before: object, after: object, what: str, word: str) -> None:
    (problem,) = drift.refusals(drift.changes({key: before}, {key: after}), "nightly")
    assert (problem.what, problem.key) == (f"{key} {what}", key)
    assert problem.hint == f"tune runs fork nightly {word} makes a child run with it"


def test_what_may_only_grow() -> None:
    (problem,) = drift.refusals(drift.changes({"training.max_steps": 20}, {"training.max_steps": 10}), "nightly")
    assert problem.hint == "it may only grow; tune runs fork nightly training.max_steps=10 makes a child run with it"


def test_settings_that_came_later_are_no_change_at_their_usual_values() -> None:
    usual = {
        "data.dedupe": "exact", "data.transcript.turns": 8, "data.truncation": "right", "data.columns": None,
        "monitor.hang_minutes": 30, "launch.processes": 1,
    }  # fmt: skip
    assert drift.changes({}, usual) == []
    assert [c.key for c in drift.changes({"data.dedupe": "near"}, usual)] == ["data.dedupe"]
    assert [c.key for c in drift.changes({}, {"data.dedupe": "near"})] == ["data.dedupe"]
    packed = {"training.packing": True, "training.packing_strategy": "bfd_split"}
    assert drift.changes(packed, {**packed, "data.truncation": "split"}) == []
    assert [c.key for c in drift.changes(packed, {**packed, "data.truncation": "right"})] == ["data.truncation"]


def test_sources_are_compared_whole() -> None:
    values = {"data": {"train": {"source": "a", "weight": 2}, "eval": [{"source": "b"}], "format": "text"}}
    assert drift.flat(values) == {
        "data.train": {"source": "a", "weight": 2},
        "data.eval": [{"source": "b"}],
        "data.format": "text",
    }
