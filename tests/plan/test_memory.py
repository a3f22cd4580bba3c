"""GPU memory by arithmetic: published measurements, the laws that hold for any plan, and the changes that are offered."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune.plan.architecture import Shape, Unlisted, shape
from nothing_tune.plan.memory import (
    TERMS,
    changes,
    estimate,
    length_of,
    longest,
    rows_at_once,
    smallest,
    unquantised,
    usable,
    verdict,
)
from nothing_tune.plan.memory.setting import FULL
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import Rows

GIB = 2**30
T4_DATA = Path(__file__).parents[1] / "data" / "vram_t4.csv"
LORA = {"peft_type": "LORA", "r": 32, "lora_alpha": 64, "lora_dropout": 0.05, "target_modules": "all-linear"}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
L4 = {"name": "l4", "kind": "cuda", "memory_gb": 24, "flash_attention": True, "compute_capability": "8.9"}


def llama(hidden: int, layers: int, heads: int, kv: int, wide: int, vocab: int, **more: Any) -> dict[str, Any]:
    """A Llama's config.json."""
    sizes = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
    }
    return {"model_type": "llama", **sizes, "intermediate_size": wide, "vocab_size": vocab, **more}


LLAMA_3B = llama(3072, 28, 24, 8, 8192, 128256, head_dim=128, tie_word_embeddings=True, max_position_embeddings=131072)
MEASURED: dict[str, dict[str, Any]] = {
    "TinyLlama-1.1B": llama(2048, 22, 32, 4, 5632, 32000),
    "SmolLM2-1.7B": llama(2048, 24, 32, 32, 8192, 49152, tie_word_embeddings=True),
    "SmolLM2-360M": llama(960, 32, 15, 5, 2560, 49152, tie_word_embeddings=True),
    "SmolLM2-135M": llama(576, 30, 9, 3, 1536, 49152, tie_word_embeddings=True),
    "llama-160m": llama(768, 12, 12, 12, 3072, 32000),
    "Qwen2.5-1.5B": {**llama(1536, 28, 12, 2, 8960, 151936, tie_word_embeddings=True), "model_type": "qwen2"},
    "Qwen2.5-0.5B": {**llama(896, 24, 14, 2, 4864, 151936, tie_word_embeddings=True), "model_type": "qwen2"},
    "gemma-2-2b": {**llama(2304, 26, 8, 4, 9216, 256000, head_dim=256, sliding_window=4096), "model_type": "gemma2"},
}
"""The measured models' config.json, as on huggingface.co."""


def plan(**over: Any) -> Plan:
    """A bf16 LoRA plan with activation checkpointing; `over` replaces fields, `training` adds to its own."""
    training = {
        "bf16": True,
        "activation_checkpointing": True,
        "optim": "adamw_torch_fused",
        **over.pop("training", {}),
    }
    init = {"dtype": over.pop("dtype", "bfloat16"), "attn_implementation": over.pop("attention", "sdpa")}
    empty: dict[str, Any] = {
        "data": {},
        "tracking": {},
        "monitor": {},
        "checkpoint": {},
        "values": {},
        "trainable_dtype": None,
    }
    given = {"gpu": L4, "peft": LORA, "quantization": None, **over}
    return Plan(name="p", model={"init": init}, training=training, **{**empty, **given})


QLORA = plan(quantization={**NF4, "bnb_4bit_compute_dtype": "bfloat16"})


def t4_row(row: dict[str, str]) -> tuple[Shape, Plan, float]:
    """`(shape, plan, MiB measured)`: fp16 autocast, float32 adapters on q, k, v and o with PEFT's usual dropout; 4-bit bases
    were prepared with `prepare_model_for_kbit_training`, which makes what is not quantised float32."""
    notes = row["notes"]
    found = re.search(r"measured_MiB=(\d+).*attn=(\w+)", notes)
    assert found
    four_bit, full = row["quant"].startswith("bnb"), row["method"] == "full"
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    made = plan(
        gpu={},
        peft=None if full else {**LORA, "target_modules": names},
        quantization={**NF4, "bnb_4bit_compute_dtype": "float16"} if four_bit else None,
        dtype="float32" if full or four_bit else "float16",
        attention=found[2],
        trainable_dtype="float32",
        training={
            "bf16": False,
            "fp16": True,
            "optim": "adamw_torch",
            "activation_checkpointing": row["grad_ckpt"] == "yes",
        },
    )
    return shape(MEASURED[row["model"]]), made, float(found[1])


def test_published_measurements_of_a_t4() -> None:
    """23 peaks measured with the logits of TRL until 1.6: median error 1.9 %, the worst 11.3 % (eager attention)."""
    errors = []
    for row in csv.DictReader(T4_DATA.read_text(encoding="utf-8").splitlines()):
        model, made, measured = t4_row(row)
        got = estimate(model, made, int(row["micro_batch"]), int(row["seq_len"]), FULL)
        errors.append(abs(got.allocated / 2**20 / measured - 1))
    assert len(errors) == 23
    assert median(errors) < 0.025
    assert max(errors) < 0.12


def test_a_3b_model_as_it_was_simulated() -> None:
    """Llama-3.2-3B, r 32 on all matrices, 8 x 1024: GiB counted on fake tensors, CUDA's dropout mask of a byte (2026-11-21)."""
    model = shape(LLAMA_3B)
    off = {"activation_checkpointing": False}
    for made, want in (
        (QLORA, 5.334),
        (replace(QLORA, training={**QLORA.training, **off}), 39.190),
        (plan(), 10.004),
    ):
        assert estimate(model, made, 8, 1024).allocated / GIB == pytest.approx(want, rel=0.01)


def test_terms_add_up_to_the_peak_in_their_order() -> None:
    got = estimate(shape(LLAMA_3B), QLORA, 8, 1024)
    assert tuple(got.terms) == TERMS
    assert sum(got.terms.values()) == got.peak
    assert got.allocated == got.peak - got.terms["context"] - got.terms["fragmentation"]
    assert got.low < got.peak < got.high
    assert min(got.terms.values()) >= 0


@settings(max_examples=12, deadline=None)
@given(
    family=st.sampled_from(["llama", "qwen2", "gemma2", "olmo2", "phi3", "gpt_neox", "qwen3_moe"]),
    rows=st.integers(1, 8),
    length=st.integers(16, 2048),
    checkpoint=st.booleans(),
    attention=st.sampled_from(["sdpa", "eager", "flash_attention_2"]),
    method=st.sampled_from(["lora", "dora", "full", "qlora", "ia3", "vera", "8bit"]),
)
def test_more_rows_or_tokens_never_need_less(
    family: str, rows: int, length: int, checkpoint: bool, attention: str, method: str
) -> None:
    config = {**llama(512, 2, 8, 4, 1024, 5000), "model_type": family}
    config |= {"num_experts": 8, "moe_intermediate_size": 256, "num_experts_per_tok": 2, "head_dim": 64}
    target = "all-linear" if family != "qwen3_moe" else ["q_proj", "v_proj"]
    peft: dict[str, Any] | None = {**LORA, "r": 8, "target_modules": target, "use_dora": method == "dora"}
    if method in ("ia3", "vera"):
        peft = {"peft_type": method, "r": 64, "target_modules": target, "feedforward_modules": []}
    elif method == "full":
        peft = None
    quant = {"qlora": {**NF4, "bnb_4bit_compute_dtype": "bfloat16"}, "8bit": {"load_in_8bit": True}}.get(method)
    made = plan(peft=peft, quantization=quant, attention=attention, training={"activation_checkpointing": checkpoint})
    model = shape(config)
    got = estimate(model, made, rows, length)
    assert sum(got.terms.values()) == got.peak
    assert estimate(model, made, rows + 1, length).peak >= got.peak
    assert estimate(model, made, rows, length + 64).peak >= got.peak
    other = replace(made, training={**made.training, "activation_checkpointing": True})
    assert estimate(model, other, rows, length).allocated <= got.allocated * 1.02 + 2**20
    two = replace(made, world_size=2)
    assert estimate(model, two, rows, length).peak >= got.peak


def test_what_the_settings_do() -> None:
    model = shape(LLAMA_3B)

    def allocated(made: Plan, rows: int = 1, length: int = 256, loss: str = "fused") -> int:
        return estimate(model, made, rows, length, loss).allocated

    assert estimate(model, QLORA, 1, 64).terms["weights"] / model.parameters == pytest.approx(0.698, abs=0.002)
    weights = [
        estimate(model, plan(quantization=q), 1, 64).terms["weights"] for q in (None, {"load_in_8bit": True}, NF4)
    ]
    assert weights == sorted(weights, reverse=True)
    plain = {**NF4, "bnb_4bit_use_double_quant": False}
    assert estimate(model, plan(quantization=plain), 1, 64).terms["weights"] > weights[2]
    assert allocated(plan(), 8, 1024, FULL) > allocated(plan(), 8, 1024) + 8 * GIB
    full = [
        plan(peft=None, training={"optim": name}) for name in ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "sgd")
    ]
    sizes = [allocated(p) for p in full]
    assert sizes == sorted(sizes, reverse=True)
    paged = estimate(model, plan(peft=None, training={"optim": "paged_adamw_32bit"}), 1, 256)
    assert paged.terms["optimizer"] < estimate(model, full[1], 1, 256).terms["optimizer"] / 100
    half = replace(QLORA, trainable_dtype="float32")
    assert estimate(model, half, 1, 64).terms["adapters"] == 2 * estimate(model, QLORA, 1, 64).terms["adapters"]
    packed = replace(QLORA, training={**QLORA.training, "packing": True})
    assert allocated(packed, 8, 1024) > allocated(QLORA, 8, 1024)
    flash = replace(packed, model={"init": {"dtype": "bfloat16", "attn_implementation": "flash_attention_2"}})
    assert allocated(flash, 8, 1024) < allocated(packed, 8, 1024)


def test_what_cannot_be_told_is_said() -> None:
    model = shape(LLAMA_3B)
    for made, why in (
        (plan(training={"optim": "muon"}), "what the optimizer muon keeps is not listed"),
        (plan(peft={"peft_type": "OFT"}), "what the PEFT method OFT keeps in memory is not listed"),
        (plan(training={"fsdp": "full_shard"}), "what training.fsdp does to memory is not counted here"),
        (plan(attention="flex_attention"), "what the attention flex_attention keeps is not listed"),
        (plan(peft=None, quantization=NF4), "quantised weights cannot train"),
        (plan(training={"torch_compile": True}), "what training.torch_compile does to memory is not counted here"),
    ):  # fmt: skip
        with pytest.raises(Unlisted) as caught:
            estimate(model, made, 1, 64)
        assert str(caught.value) == why
        assert longest(model, made, 1) is None
        assert changes(model, made, Rows()) == []


def test_a_gpu_and_its_verdict() -> None:
    got = estimate(shape(LLAMA_3B), QLORA, 8, 1024)
    assert usable(L4) == int(24e9 * 0.975)
    assert usable({"kind": "cpu", "memory_gb": 64}) is None
    assert usable({}) is None
    assert verdict(got, L4) == "fits"
    assert verdict(got, {**L4, "memory_gb": 6}) == "does not fit"
    assert verdict(got, {"kind": "mps"}) == "cannot tell"


def test_the_longest_row_fits_and_the_next_does_not() -> None:
    model = shape(LLAMA_3B)
    tokens = longest(model, QLORA, 8)
    assert tokens
    assert verdict(estimate(model, QLORA, 8, tokens), L4) == "fits"
    assert verdict(estimate(model, QLORA, 8, tokens + 64), L4) == "does not fit"
    assert longest(model, replace(QLORA, gpu={**L4, "memory_gb": 2}), 8) == 0
    assert longest(model, replace(QLORA, gpu={"kind": "cpu"}), 8) is None


def test_changes_make_it_fit_and_keep_the_rows_of_a_step() -> None:
    model, room = shape(LLAMA_3B), usable(L4) or 0
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_length": 1024}
    bins = ((1, 129, 950), (129, 257, 45), (257, 1025, 5))
    rows = Rows(longest=1024, lengths=bins)
    off = {**batch, "activation_checkpointing": False}
    nf4 = QLORA.quantization
    cases = {
        "without checkpointing": (plan(quantization=nf4, training=off), ["training.activation_checkpointing=true"]),
        "full": (
            plan(peft=None, training=off),
            ["training.optim=paged_adamw_8bit", "training.activation_checkpointing=true"],
        ),
        "lora": (plan(gpu={**L4, "memory_gb": 10}, training=batch), ["quantization.load_in_4bit=true"]),
    }
    for name, (made, wanted) in cases.items():
        offered = changes(model, made, rows)
        assert 1 <= len(offered) <= 5, name
        words = [w for c in offered for w in c.words]
        assert set(wanted) <= set(words), name
        limit = usable(made.gpu) or 0
        for change in offered:
            assert change.estimate.peak <= limit < estimate(model, made, 8, length_of(made, rows)).peak, name
            assert change.why, name
            sizes = {k: int(v) for k, v in (w.removeprefix("training.").split("=") for w in change.words) if k in batch}
            assert sizes.get("per_device_train_batch_size", 8) * sizes.get("gradient_accumulation_steps", 2) == 16, name
    assert all(c.estimate.peak <= room for c in changes(model, cases["full"][0], rows))


def test_changes_use_a_gpu_better() -> None:
    batch = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "max_length": 512}
    offered = changes(shape(LLAMA_3B), replace(QLORA, training={**QLORA.training, **batch}), Rows(longest=256))
    words = [c.words for c in offered]
    assert ("training.activation_checkpointing=false",) in words
    assert ("quantization=null",) in words
    assert ("training.per_device_train_batch_size=16", "training.gradient_accumulation_steps=1") in words
    assert all(c.estimate.high <= (usable(L4) or 0) for c in offered)


def test_nothing_helps_a_model_that_is_far_too_large() -> None:
    huge = shape(llama(16384, 126, 128, 8, 53248, 128256))
    made = replace(QLORA, training={**QLORA.training, "max_length": 1024})
    assert changes(huge, made, Rows()) == []
    least = smallest(huge, made, Rows())
    assert least
    assert (usable(L4) or 0) < least.peak < estimate(huge, made, 1, 1024).peak
    assert smallest(huge, plan(training={"optim": "muon"}), Rows()) is None


def test_as_many_changes_as_it_takes() -> None:
    """Full fine-tuning of a 7B on a T4 becomes an adapter on 4-bit weights, and nothing is changed that need not be."""
    t4 = {"name": "t4", "kind": "cuda", "memory_gb": 16, "compute_capability": "7.5"}
    made = plan(peft=None, gpu=t4, training={"max_length": 1024})
    model = shape({**llama(3584, 28, 28, 4, 18944, 152064), "model_type": "qwen2"})
    (offered,) = changes(model, made, Rows(longest=1024))
    keys = [word.partition("=")[0] for word in offered.words]
    assert [k for k in keys if k.endswith(("peft_type", "4bit"))] == ["peft.peft_type", "quantization.load_in_4bit"]
    assert not [k for k in keys if "batch" in k or k.endswith("optim")]
    least = smallest(model, made, Rows(longest=1024))
    assert least
    assert least.peak <= offered.estimate.peak <= (usable(t4) or 0)


def test_no_more_rows_are_in_memory_than_there_are() -> None:
    sizes = {"per_device_train_batch_size": 512, "gradient_accumulation_steps": 4, "max_length": 4096}
    made, rows = plan(training=sizes), Rows(train=360, longest=4096)
    assert rows_at_once(made, rows) == 360
    assert rows_at_once(made, Rows()) == 512
    assert rows_at_once(made, replace(rows, sequences=400)) == 400
    packed = replace(made, training={**made.training, "packing": True})
    assert (rows_at_once(packed, rows), rows_at_once(packed, replace(rows, sequences=40))) == (512, 40)
    assert rows_at_once(replace(made, data={"truncation": "split"}), rows) == 512
    assert (
        rows_at_once(replace(made, world_size=2), rows) == 512
    )  # the last batch is filled up with rows that it had before


def test_a_step_of_more_rows_than_there_are_becomes_smaller() -> None:
    sizes = {"per_device_train_batch_size": 512, "gradient_accumulation_steps": 4, "max_length": 4096}
    made = replace(QLORA, training={**QLORA.training, **sizes})
    (first, *_) = changes(shape(LLAMA_3B), made, Rows(train=360, longest=4096))
    assert first.words == ("training.per_device_train_batch_size=8", "training.gradient_accumulation_steps=1")
    assert first.why == "steps of 8 rows instead of 2,048, which is more than there are"
    fits = replace(
        QLORA, training={**QLORA.training, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 64}
    )
    words = [w for c in changes(shape(LLAMA_3B), fits, Rows(train=5, longest=64)) for w in c.words]
    assert words
    assert not [w for w in words if "batch_size" in w and int(w.partition("=")[2]) > 5]


def test_the_longest_row_in_single_tokens() -> None:
    model = shape(LLAMA_3B)
    made = replace(QLORA, gpu={**L4, "memory_gb": 4})
    tokens = longest(model, made, 256)
    assert tokens
    assert tokens < 64
    assert verdict(estimate(model, made, 256, tokens), made.gpu) == "fits"
    assert verdict(estimate(model, made, 256, tokens + 1), made.gpu) == "does not fit"
    for joined in ("packing", "padding_free"):  # rows are joined: their own length says nothing
        assert longest(model, replace(QLORA, training={**QLORA.training, joined: True}), 8) is None


def test_what_a_reader_may_ask() -> None:
    mixed = llama(1024, 4, 8, 4, 3584, 32000, num_local_experts=8, num_experts_per_tok=2) | {"model_type": "mixtral"}
    model, bare = shape(mixed), {**LORA, "lora_dropout": 0.0}
    four = replace(QLORA, peft=bare)
    experts = 4 * 8 * 3 * 1024 * 3584 * 2
    assert unquantised(model, four) == experts
    assert unquantised(model, plan(peft=bare)) == unquantised(shape(LLAMA_3B), QLORA) == 0
    assert estimate(model, four, 1, 64).notes == (
        "672 MiB of the weights stay in 16 bits: experts are 3-D parameters, which bitsandbytes does not quantise",
        "the peak is in the backward pass of a layer, after the loss, which takes 4 MiB at its most",
    )
    assert "counted without peft.lora_dropout, which PEFT refuses on experts" in estimate(model, QLORA, 1, 64).notes
    assert estimate(model, QLORA, 1, 64).terms == estimate(model, four, 1, 64).terms
    skipped = plan(quantization={**NF4, "llm_int8_skip_modules": ["down_proj"]})
    assert estimate(shape(LLAMA_3B), skipped, 1, 64).notes[0] == (
        "1.3 GiB of the weights stay in 16 bits: llm_int8_skip_modules names them"
    )
    t4 = {"name": "t4", "kind": "cuda", "memory_gb": 16, "compute_capability": "7.5"}
    wide = estimate(shape(LLAMA_3B), replace(QLORA, gpu=t4), 1, 4096)
    assert wide.notes[-1] == (
        "the upper end is for attention that writes out the scores of all pairs of tokens: before Ampere no fused kernel takes "
        "fewer heads of keys and values than of queries"
    )
    assert estimate(shape(LLAMA_3B), QLORA, 1, 4096).notes == (
        "the peak is in the backward pass of a layer, after the loss, which takes 304 MiB at its most",
    )
    full = estimate(shape(LLAMA_3B), QLORA, 4, 1024, FULL)
    assert (full.terms["logits"] > 0, full.notes) == (True, ("the peak is in the loss",))


def test_the_longest_row_that_a_step_may_see() -> None:
    assert length_of(plan(training={"max_length": 512}), Rows(longest=300)) == 300
    assert length_of(plan(training={"max_length": 512}), Rows(longest=900)) == 512
    assert length_of(plan(training={"max_length": 512, "packing": True}), Rows(longest=300)) == 512
    assert length_of(plan(), Rows()) == 1024
