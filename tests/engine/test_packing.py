"""Rows that share a sequence train exactly as they do alone: losses, gradients, evaluation; and models where they cannot."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from nothing_tune.engine import packing_check
from nothing_tune.errors import UsageError
from tests.engine.support import tiny_tokenizer

SIZE = 64
"""Tokens of the vocabulary."""
MAX_LENGTH = 64
SAME = 1e-5
"""Largest difference, in nats, that is rounding: the same sums in another order, float32."""
SEEN = 1e-2
"""Smallest difference that a row which sees another one makes here."""
_COMMON: dict[str, Any] = {
    "vocab_size": SIZE, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "max_position_embeddings": 256,
    "initializer_range": 0.2,  # random weights that are not so small that nothing depends on anything
}  # fmt: skip
_SMALL: dict[str, Any] = {"vocab_size": SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
CLEAN: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**_COMMON),
    "qwen2": lambda: transformers.Qwen2Config(**_COMMON),
    "mistral": lambda: transformers.MistralConfig(**_COMMON, sliding_window=None),
    "mistral, sliding window": lambda: transformers.MistralConfig(**_COMMON, sliding_window=8),
    "gemma": lambda: transformers.GemmaConfig(**_COMMON, head_dim=8),
    "gemma 3, sliding window": lambda: transformers.Gemma3TextConfig(
        **_COMMON, head_dim=8, sliding_window=8, query_pre_attn_scalar=8
    ),
}
OTHERS: dict[str, tuple[Callable[[], Any], bool]] = {
    "qwen3": (lambda: transformers.Qwen3Config(**_COMMON, head_dim=8), True),
    "phi3": (lambda: transformers.Phi3Config(**_COMMON), True),
    "gpt2": (lambda: transformers.GPT2Config(**_SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=256), True),
    "opt": (
        lambda: transformers.OPTConfig(
            **_SMALL, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4
        ),
        False,
    ),
    "bloom": (lambda: transformers.BloomConfig(**_SMALL, hidden_size=32, n_layer=2, n_head=4), False),
    "falcon": (
        lambda: transformers.FalconConfig(
            **_SMALL, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
        ),
        False,
    ),
    "mpt": (lambda: transformers.MptConfig(**_SMALL, d_model=32, n_layers=2, n_heads=4), False),
    "mamba": (lambda: transformers.MambaConfig(**_SMALL, hidden_size=32, num_hidden_layers=2), False),
}


def model_of(make: Callable[[], Any], attention: str | None = None, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    more = {"attn_implementation": attention} if attention else {}
    return transformers.AutoModelForCausalLM.from_config(make(), **more, **kwargs)


def rows_of(count: int = 24, seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows of 4 to 40 tokens; the first third of each is a prompt, which is not learned."""
    chance = random.Random(seed)
    out = []
    for _ in range(count):
        ids = [chance.randrange(2, SIZE) for _ in range(chance.randint(4, 40))]
        prompt = max(1, len(ids) // 3)
        out.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return out


def trainer_of(model: Any, folder: Path, packed: bool = False, rows: Any = None, **settings: Any) -> Any:
    """TRL's trainer over rows that are tokens already, packed or not, as a run has it."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer, pack_dataset

    data = Dataset.from_list(rows or rows_of())
    train = pack_dataset(data, MAX_LENGTH, "bfd") if packed else data
    base: dict[str, Any] = {
        "output_dir": str(folder), "use_cpu": not torch.cuda.is_available(), "bf16": False, "report_to": "none",
        "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1, "max_length": MAX_LENGTH, "packing": packed,
        "eval_packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "max_grad_norm": 0.0,
        "gradient_checkpointing": False, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant",
        "max_steps": 1, "per_device_train_batch_size": len(train), "per_device_eval_batch_size": 5, "seed": 1,
    }  # fmt: skip
    return SFTTrainer(
        model=model, args=SFTConfig(**{**base, **settings}), train_dataset=train,
        eval_dataset=Dataset.from_list(rows_of(11, seed=5)), processing_class=tiny_tokenizer(),
    )  # fmt: skip


def token_losses(model: Any, batch: dict[str, Any], **changed: Any) -> list[tuple[float, ...]]:
    """The loss of every learned token, a tuple for each row, of a batch that a collator made; the rows sorted."""
    inputs = {k: v for k, v in batch.items() if k != "labels"} | {"use_cache": False} | changed
    with torch.no_grad():
        logits = model.eval()(**{k: v for k, v in inputs.items() if v is not None}).logits.float()
    labels = batch["labels"][:, 1:]
    losses = cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    losses = losses.view(labels.shape)
    rows: dict[tuple[int, int], list[float]] = {}
    for line in range(labels.shape[0]):
        starts = (
            (batch["position_ids"][line] == 0).long().cumsum(0)[1:] if "position_ids" in batch else labels[line] * 0
        )
        for index in (labels[line] != -100).nonzero().flatten().tolist():
            rows.setdefault((line, int(starts[index])), []).append(float(losses[line, index]))
    return sorted(map(tuple, rows.values()), key=lambda row: (len(row), row))


def furthest(some: list[tuple[float, ...]], others: list[tuple[float, ...]]) -> float:
    """Largest difference of two lists of losses, matched row by row."""
    assert sorted(map(len, some)) == sorted(map(len, others))
    best = 0.0
    left = list(others)
    for row in some:
        near = min(
            (o for o in left if len(o) == len(row)), key=lambda o: max(abs(a - b) for a, b in zip(o, row, strict=True))
        )
        left.remove(near)
        best = max(best, max(abs(a - b) for a, b in zip(near, row, strict=True)))
    return best


def batches(trainer: Any) -> list[dict[str, Any]]:
    return [trainer._prepare_inputs(dict(batch)) for batch in trainer.get_train_dataloader()]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CLEAN)
def test_every_token_has_the_loss_that_it_has_alone(name: str, attention: str, tmp_path: Path) -> None:
    model = model_of(CLEAN[name], attention)
    packed = trainer_of(model, tmp_path, packed=True, per_device_train_batch_size=2)
    assert {len(row["seq_lengths"]) > 1 for row in packed.train_dataset} >= {True}
    alone = [loss for row in rows_of() for loss in token_losses(model, {k: torch.tensor([v]) for k, v in row.items()})]
    together = [loss for batch in batches(packed) for loss in token_losses(model, batch)]
    assert furthest(together, alone) < SAME

    # what would go wrong, so that the line above means something
    joined = batches(packed)
    masks = [torch.ones_like(batch["input_ids"]) for batch in joined]
    seen = [x for b, m in zip(joined, masks, strict=True) for x in token_losses(model, b, attention_mask=m)]
    assert furthest(seen, alone) > SEEN
    assert furthest([x for b in joined for x in token_losses(model, b, position_ids=None)], alone) > SEEN
    assert furthest([x for b in joined for x in token_losses(model, b, use_cache=True)], alone) > SEEN


def test_the_trainer_itself_sends_positions_no_mask_and_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(CLEAN["llama"])
    assert model.config.use_cache
    seen: list[dict[str, Any]] = []
    original = type(model.model).forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "forward", forward)
    trainer = trainer_of(model, tmp_path, packed=True)
    trainer.train()
    trainer.evaluate()
    assert len(seen) >= 4
    for kwargs in seen:
        assert kwargs.get("attention_mask") is None
        assert kwargs["use_cache"] is False
        assert int((kwargs["position_ids"] == 0).sum()) >= 1
    assert sum(int((kwargs["position_ids"] == 0).sum()) for kwargs in seen) == len(rows_of()) + 11


def trained(folder: Path, packed: bool, make: Callable[[], Any] = CLEAN["llama"], **settings: Any) -> tuple[float, Any]:
    """The loss of one step over all rows and the weights behind it; the step is the gradient itself (SGD, rate 1)."""
    trainer = trainer_of(model_of(make), folder, packed, **settings)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    logged = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    return logged, {n: before[n] - p.detach().cpu() for n, p in trainer.model.cpu().named_parameters()}


def apart(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    return max(float((some[name] - others[name]).abs().max()) for name in others)


@pytest.mark.parametrize("name", ["llama", "mistral, sliding window"])
def test_a_packed_step_has_the_gradient_of_the_same_rows_unpacked(name: str, tmp_path: Path) -> None:
    loss, gradient = trained(tmp_path, False, CLEAN[name])
    assert max(float(g.abs().max()) for g in gradient.values()) > 0.01
    packed = trainer_of(model_of(CLEAN[name]), tmp_path, packed=True)
    count = len(packed.train_dataset)
    assert count < len(rows_of()) // 2
    steps = {
        "packed, one batch": trained(tmp_path, True, CLEAN[name]),
        "packed, accumulated": trained(
            tmp_path, True, CLEAN[name], per_device_train_batch_size=1, gradient_accumulation_steps=count
        ),
        "unpacked, accumulated": trained(
            tmp_path, False, CLEAN[name], per_device_train_batch_size=3, gradient_accumulation_steps=8
        ),
        "without padding": trained(tmp_path, False, CLEAN[name], padding_free=True, max_length=None),
        "without padding, accumulated": trained(
            tmp_path, False, CLEAN[name], padding_free=True, max_length=None, per_device_train_batch_size=3,
            gradient_accumulation_steps=8,
        ),
    }  # fmt: skip
    for what, (other, changed) in steps.items():
        assert abs(other - loss) < SAME, what
        assert apart(changed, gradient) < SAME, what
    # one row less is seen at once
    assert apart(trained(tmp_path, True, CLEAN[name], rows=rows_of()[:-1])[1], gradient) > 1e-3


def test_evaluation_is_the_same_beside_packed_training(tmp_path: Path) -> None:
    losses = {}
    for packed in (False, True):
        trainer = trainer_of(model_of(CLEAN["qwen2"]), tmp_path, packed)
        assert len(trainer.eval_dataset) == 11
        assert "seq_lengths" not in trainer.eval_dataset.column_names
        losses[packed] = trainer.evaluate()["eval_loss"]
    assert abs(losses[True] - losses[False]) < 1e-6


def test_grouping_by_length_trains_the_same_rows_with_less_padding(tmp_path: Path) -> None:
    seen, padding = {}, {}
    for strategy in ("random", "group_by_length"):
        model = model_of(CLEAN["llama"])
        rows = rows_of(400, seed=2)
        trainer = trainer_of(
            model, tmp_path, rows=rows, per_device_train_batch_size=4, train_sampling_strategy=strategy
        )
        found = batches(trainer)
        seen[strategy] = Counter(
            tuple(ids[mask.bool()].tolist())
            for b in found
            for ids, mask in zip(b["input_ids"], b["attention_mask"], strict=True)
        )
        padding[strategy] = sum(int((b["attention_mask"] == 0).sum()) for b in found)
    assert seen["random"] == seen["group_by_length"] == Counter(tuple(row["input_ids"]) for row in rows_of(400, seed=2))
    assert padding["group_by_length"] < padding["random"] / 4


@pytest.mark.parametrize("name", [*CLEAN, *OTHERS])
def test_models_in_which_packed_rows_see_each_other_are_found(name: str) -> None:
    make, clean = OTHERS.get(name) or (CLEAN[name], True)
    model = model_of(make)
    for dtype in (torch.float32, torch.bfloat16):
        model = model.to(dtype).train()
        leak = packing_check.leak(model)
        assert leak == 0.0 if clean else leak > 0.5
        assert (leak <= packing_check.tolerance(model)) is clean
        assert model.training
    if not clean:
        with pytest.raises(UsageError) as caught:
            packing_check.refuse_leaks(model)
        [problem] = caught.value.problems
        assert problem.what == f"rows that share a sequence would see each other in a model of the kind {name}"
        assert problem.hint == "set training.packing=false and training.padding_free=false"


def test_an_adapter_on_the_model_changes_nothing_of_that() -> None:
    from peft import LoraConfig, get_peft_model

    for name, clean in (("llama", True), ("opt", False)):
        config = LoraConfig(
            r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5, task_type="CAUSAL_LM"
        )
        make = CLEAN.get(name) or OTHERS[name][0]
        wrapped = get_peft_model(model_of(make), config)
        assert (packing_check.leak(wrapped) <= packing_check.tolerance(wrapped)) is clean


def test_a_model_that_takes_no_packed_rows_says_so() -> None:
    class Plain(torch.nn.Module):
        config = None

        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(SIZE, 4)

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.words

        def forward(self, input_ids: torch.Tensor) -> Any:
            raise AssertionError

    with pytest.raises(UsageError, match="a model of the kind Plain takes no packed rows"):
        packing_check.refuse_leaks(Plain())


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("name", CLEAN)
def test_every_token_has_the_loss_that_it_has_alone_on_a_gpu(name: str, attention: str, tmp_path: Path) -> None:
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn")
    model = model_of(CLEAN[name], attention, dtype=torch.bfloat16).cuda()
    packing_check.refuse_leaks(model)
    packed = trainer_of(model, tmp_path, packed=True, per_device_train_batch_size=2)
    alone = [x for row in rows_of() for x in token_losses(model, {k: torch.tensor([v]).cuda() for k, v in row.items()})]
    together = [x for batch in batches(packed) for x in token_losses(model, batch)]
    assert furthest(together, alone) < 0.1  # nats, bfloat16
