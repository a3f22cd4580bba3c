"""How long a run takes: the operations by hand, published trainings, padding, and what is unknown."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nothing_tune.plan import make_plan
from nothing_tune.plan.architecture import Linear, Shape, shape
from nothing_tune.plan.maths import Every, Maths
from nothing_tune.plan.maths import maths as counted
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import GIVEN, TOKENISED, Rows
from nothing_tune.plan.speed import Speed, flops, speed
from nothing_tune.recipe import load_recipe
from nothing_tune.recipe.library import library_root, names
from nothing_tune.recipe.reader import read_file

PUBLISHED = yaml.safe_load((Path(__file__).parent / "published_speeds.yaml").read_text(encoding="utf-8"))
DOC = (Path(__file__).parents[2] / "docs/costs.md").read_text(encoding="utf-8")
FACTS = {name: read_file(library_root() / "gpus" / f"{name}.yaml")[0]["gpu"] for name in names("gpus")}


def model(name: str) -> Shape:
    layers, hidden, heads, kv_heads, intermediate, vocab, tied = PUBLISHED["models"][name]
    return shape(
        {
            "model_type": "llama",
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": intermediate,
            "vocab_size": vocab,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": tied,
            "hidden_act": "silu",
        }
    )


def plan(gpu: str, method: str, micro: int = 1, accumulation: int = 1, **training: Any) -> Plan:
    lora = {
        "peft_type": "LORA",
        "r": 16,
        "target_modules": "all-linear",
        "lora_dropout": 0.05,
        "task_type": "CAUSAL_LM",
    }
    half = {"bf16": True} if FACTS[gpu].get("bf16") else {"fp16": True}
    batch = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": accumulation, "max_length": 1024}
    return Plan(
        name="case",
        gpu=FACTS[gpu],
        values={},
        model={"init": {}},
        data={"eval": 0.1},
        quantization={"load_in_4bit": True} if method == "qlora" else None,
        peft=None if method == "full" else {**lora, "use_dora": method == "dora"},
        training={**batch, **half, "activation_checkpointing": True, **training},
        tracking={},
        monitor={},
        checkpoint={},
        trainable_dtype=None,
    )


def of(rows: int, length: int, **more: Any) -> Rows:
    """So many rows that are all `length` tokens long."""
    lengths = ((length, length + 1, rows),)
    return Rows(
        **{"source": TOKENISED, "train": rows, "sequences": rows, "tokens": rows * length, "lengths": lengths, **more}
    )


def told(made: Plan, rows: Rows, name: str = "llama-2-7b", **more: Any) -> Speed:
    maths = counted(rows, made)
    assert maths is not None
    found = speed(model(name), made, rows, maths, **more)
    assert found is not None
    return found


def test_operations_are_those_of_the_papers() -> None:
    known = model("llama-2-7b")
    passed = known.active_parameters  # matrices and output layer, without the embedding that is only looked up
    ratios = {
        ("full", False): 6.0,  # PaLM, appendix B
        ("full", True): 8.0,  # one forward pass more
        ("lora", False): 4.0,  # no gradients of weights
        ("lora", True): 6.0,
    }
    for (method, again), expected in ratios.items():
        found = flops(known, plan("l4", method, activation_checkpointing=again), 64)
        assert found.training / passed == pytest.approx(expected, rel=0.03), (method, again)
    one, long = (flops(known, plan("l4", "full", activation_checkpointing=False), n).training for n in (1, 4097))
    assert long - one == pytest.approx(
        4096 / 2 * 4 * 32 * 4096 * 3.5
    )  # layers x width, forward and 2.5 times that backward
    eager = replace(
        plan("l4", "full", activation_checkpointing=False), model={"init": {"attn_implementation": "eager"}}
    )
    assert flops(known, eager, 4097).training - one == pytest.approx((2 * 4097 - 1) / 4096 * (long - one))
    head = flops(known, plan("l4", "lora"), 64).training - flops(known, plan("l4", "lora"), 64, supervised=0.0).training
    assert head == 6 * 32000 * 4096
    dora = flops(known, plan("l4", "dora"), 64).training
    assert dora / flops(known, plan("l4", "lora"), 64).training == pytest.approx(2, rel=0.05)


def test_a_window_and_experts_leave_work_out() -> None:
    known = model("llama-2-7b")
    narrow = replace(known, window=512, blocks=())
    wide, near = (flops(s, plan("l4", "lora"), 8192).training for s in (known, narrow))
    assert near < wide
    assert (
        flops(narrow, plan("l4", "lora"), 256).training
        == flops(replace(known, blocks=()), plan("l4", "lora"), 256).training
    )
    sparse = replace(
        known, linears=tuple(Linear(x.name, x.rows, x.columns, x.count, share=0.25) for x in known.linears)
    )
    assert flops(sparse, plan("l4", "full"), 64).forward < 0.35 * flops(known, plan("l4", "full"), 64).forward


def published() -> list[tuple[str, bool, float, float, Speed]]:
    """`(row of the document, whether a constant was set by it, seconds, seconds predicted, all that was predicted)`."""
    out = []
    for source, gpu, name, method, micro, accumulation, length, seconds in PUBLISHED["cases"]:
        about = PUBLISHED["sources"][source]
        once = {"max_length": length, "num_train_epochs": 1, "save_strategy": "no"}
        made = plan(gpu, method, micro, accumulation, activation_checkpointing="no check" not in about["how"], **once)
        if source == "litgpt":
            made = replace(made, peft={**(made.peft or {}), "r": 8, "target_modules": ["q_proj", "v_proj"]})
        found = told(made, of(micro * accumulation, length), name)
        row = f"| {source} | {gpu} | {name} | {method} | {micro} x {accumulation} x {length:,} | {seconds:.3g} "
        row += f"| {found.step_s:.3g} | {found.step_s / seconds:.2f} |"
        out.append((row, about["used"], seconds, found.step_s, found))
    return out


def test_published_trainings() -> None:
    cases = published()
    assert len(cases) >= 20
    assert [row for row, *_ in cases if row not in DOC] == [], "docs/costs.md has the table of these rows"
    for used in (True, False):
        ratios = [predicted / seconds for _, u, seconds, predicted, _ in cases if u == used]
        assert 0.85 < statistics.median(ratios) < 1.35
        assert min(ratios) > 0.45
        assert max(ratios) < 1.9
    inside = sum(found.hours_low * 3600 <= seconds <= found.hours_high * 3600 for _, _, seconds, _, found in cases)
    assert inside / len(cases) > 0.85


def test_nothing_gpt_takes_the_time_that_its_source_says() -> None:
    hours = {}
    for gpu in ("l4", "t4"):
        made = make_plan(load_recipe("nothing-gpt", gpu=gpu))
        facts = dict(made.values["model"]["facts"], model_type="llama", hidden_act="silu")
        rows = of(13482, 300, eval=1498)
        maths = counted(rows, made)
        assert maths is not None
        assert maths.total == 1686
        found = speed(shape(facts), made, rows, maths)
        assert found is not None
        assert found.hours_high < 16.7  # "2 epochs on L4 should complete well within this"
        hours[gpu] = found.hours
    assert 1.2 < hours["t4"] / hours["l4"] < 2.5  # "about 2x compute throughput"


def test_padding_is_computed_like_any_token() -> None:
    plain = plan("l4", "qlora", 4, 4)
    half = of(160, 100, lengths=((50, 51, 80), (150, 151, 80)))
    found = told(plain, half)
    assert (found.length, found.padding) == (144, pytest.approx(1 - 100 / 144, abs=0.01))  # mean of the longest of four
    assert found.tokens == 3 * 160 * 144
    assert found.note == ""
    report = {"train": {"padding": {"plain": 0.5, "grouped": 0.2, "packed": 0.1}}}
    for training, length, padding in (
        ({}, 200, 0.5),
        ({"train_sampling_strategy": "group_by_length"}, 125, 0.2),
        ({"packing": True}, 111, 0.1),
        ({"padding_free": True}, 100, 0.0),
    ):
        found = told(plan("l4", "qlora", 4, 4, **training), replace(half, report=report))
        assert (found.length, found.padding) == (length, padding), training
    assert told(plain, replace(half, report={**report, "micro_batch": 1})).length == 144
    assert told(plain, of(160, 400)).hours > 2 * told(plain, of(160, 100)).hours


def test_what_is_unknown_is_said() -> None:
    plain = plan("l4", "qlora", 4, 4)
    given_ = Rows(source=GIVEN, train=1000)
    found = told(plain, given_)
    assert found.note == "the length of the rows is unknown: each counts as 1,024 tokens"
    assert found.padding is None
    assert found.hours_low < found.hours / 4
    found = told(plan("l4", "qlora", 4, 4, packing=True), given_)
    assert found.note == "how many sequences packing leaves is unknown: each row counts as 1,024 tokens"
    found = told(plain, Rows(source=TOKENISED, train=1000, sequences=1000, tokens=200_000))
    assert (found.length, found.note) == (200, "how rows are padded is unknown")
    maths = counted(given_, plain)
    assert maths is not None
    unknown = plan("l4", "qlora", max_length=None)
    assert speed(model("llama-2-7b"), unknown, given_, maths) is None
    for gpu in ("cpu", "mps", "cuda", "a10g"):
        assert speed(model("llama-2-7b"), plan(gpu, "lora"), of(100, 100), maths) is None, gpu
    float32 = plan("l4", "lora", bf16=False)
    assert speed(model("llama-2-7b"), float32, of(100, 100), maths) is None


def test_few_tokens_wait_for_the_weights_and_short_rows_of_small_models_for_the_processor() -> None:
    known = told(plan("t4", "full"), of(8, 16))
    weights = 2 * (model("llama-2-7b").active_parameters)
    assert known.bound == "memory"
    assert known.step_s > 3 * weights / 320e9
    assert told(plan("a100-80gb", "lora"), of(8, 64), "qwen-1.8b").bound == "launch"
    assert told(plan("a100-80gb", "lora", 8), of(8, 2048)).bound == "compute"


def test_evaluations_and_checkpoints_take_time() -> None:
    made, rows = plan("l4", "qlora", 4, 4), of(1600, 200, eval=400)
    bare = counted(of(1600, 200), replace(made, training={**made.training, "save_strategy": "no"}))
    assert bare is not None
    known = model("llama-2-7b")

    def hours(maths: Maths) -> Speed:
        found = speed(known, made, rows, maths)
        assert found is not None
        return found

    none = hours(replace(bare, evaluations=None, saves=None))
    some = hours(replace(bare, evaluations=Every(10, 0.1, 30), saves=Every(10, 0.1, 30)))
    assert (none.evaluation_hours, none.saving_hours) == (0.0, 0.0)
    assert some.step_s == none.step_s
    assert some.hours == pytest.approx(none.hours + some.evaluation_hours + some.saving_hours)
    assert 0.1 < some.evaluation_hours / none.hours / (30 * 400 / (3 * 1600)) < 0.5  # a forward pass of three, or four
    assert some.saving_hours * 3600 > 30


def test_a_measured_efficiency_replaces_the_assumption() -> None:
    made, rows = plan("l4", "qlora", 4, 4), of(1600, 200)
    assumed = told(made, rows)
    assert (assumed.measured, assumed.source) == (False, "large products at 50 % of the data sheet (gpus/l4)")
    assert told(plan("a100-80gb", "lora"), rows).measured
    measured = told(made, rows, measured=assumed.efficiency / 2, measured_source="3 runs")
    assert (measured.measured, measured.source) == (True, "3 runs")
    assert measured.efficiency == pytest.approx(assumed.efficiency / 2, rel=0.01)
    assert measured.step_s == pytest.approx(2 * assumed.step_s, rel=0.01)
    assert measured.hours_high / measured.hours_low < 1.5


@settings(max_examples=30, deadline=None)
@given(
    gpu=st.sampled_from(["t4", "l4", "a100-80gb", "h100", "rtx-3060"]),
    method=st.sampled_from(["full", "lora", "qlora", "dora"]),
    micro=st.integers(1, 16),
    world=st.sampled_from([1, 2, 4]),
    rows=st.integers(1, 5000),
    length=st.integers(1, 1024),
)
def test_laws(gpu: str, method: str, micro: int, world: int, rows: int, length: int) -> None:
    made = replace(plan(gpu, method, micro, 4), world_size=world)
    found = told(made, of(rows, length))
    assert 0 < found.hours_low <= found.hours <= found.hours_high
    assert 0 < found.low <= found.efficiency <= found.high <= 1
    assert found.tokens == 3 * rows * length
    assert told(made, of(rows * 2, length)).hours > found.hours
    more = told(replace(made, world_size=world * 2), of(rows, length))
    ideal = told(replace(made, world_size=world), of(rows, length)).hours / 2
    assert more.hours >= ideal * 0.99


def test_every_gpu_with_a_rate_says_what_of_it_is_reached() -> None:
    rated = {name for name, facts in FACTS.items() if facts.get("tflops_fp16") or facts.get("tflops_bf16")}
    assert len(rated) >= 12
    for name, facts in FACTS.items():
        fact = facts.get("efficiency")
        assert (fact is not None) == (name in rated), name
        if fact:
            assert 0 < fact["low"] <= fact["value"] <= fact["high"] <= 1, name
            assert fact["source"].startswith("assumed") == (not fact["measured"]), name
            assert len(fact["as_of"]) == 10, name


def test_a_mixture_of_experts_is_less_certain() -> None:
    dense = model("llama-2-7b")
    config = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    experts = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336, "vocab_size": 32000}
    sparse = shape({"model_type": "mixtral", "hidden_act": "silu", "tie_word_embeddings": False, **config, **experts})
    made, rows = plan("a100-80gb", "lora", 4, 4), of(1600, 512)
    maths = counted(rows, made)
    assert maths is not None
    one, many = speed(dense, made, rows, maths), speed(sparse, made, rows, maths)
    assert one is not None
    assert many is not None
    assert sparse.active_parameters < 0.3 * sparse.parameters
    assert many.flops_per_token < 2.2 * one.flops_per_token
    assert many.hours_high / many.hours_low > one.hours_high / one.hours_low
