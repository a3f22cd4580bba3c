"""The simulation of a training step: equal to real tensors, and moved by what moves memory."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.engine

pytest.importorskip("torch")

from nothing_tune.engine import simulate as job  # noqa: E402
from nothing_tune.engine.simulate.ledger import BLOCK, Ledger, rounded  # noqa: E402
from nothing_tune.errors import PlanError, UsageError  # noqa: E402
from nothing_tune.plan.model import Plan  # noqa: E402

CUDA = {"name": "l4", "kind": "cuda", "compute_capability": "8.9", "bf16": True}
T4 = {"name": "t4", "kind": "cuda", "compute_capability": "7.5", "bf16": False}
CPU = {"name": "cpu", "kind": "cpu", "bf16": True}
LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, "lora_dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "bias": "none",
}  # fmt: skip
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
TRAINING = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_length": 256, "packing": False, "bf16": True,
    "activation_checkpointing": True, "optim": "adamw_torch_fused", "learning_rate": 1e-4, "max_grad_norm": 1.0,
}  # fmt: skip


def config(kind: str = "llama", **changes: Any) -> dict[str, Any]:
    """A small decoder's config.json."""
    return {
        "model_type": kind, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 256, "vocab_size": 1000, "head_dim": 32, "tie_word_embeddings": True, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, **changes,
    }  # fmt: skip


def plan(
    peft: dict[str, Any] | None = LORA, gpu: dict[str, Any] = CUDA, quantization: dict[str, Any] | None = None,
    attention: str = "sdpa", dtype: str = "bfloat16", trainable: str | None = None, **training: Any,
) -> Plan:  # fmt: skip
    """A plan with nothing but what a simulation reads."""
    return Plan(
        name="x", gpu=gpu, values={}, model={"name_or_path": "x", "init": {"dtype": dtype, "attn_implementation": attention}},
        data={}, quantization=quantization, peft=peft, training={**TRAINING, **training}, tracking={}, monitor={}, checkpoint={},
        trainable_dtype=trainable,
    )  # fmt: skip


def peak(of: Plan, cfg: dict[str, Any] | None = None, rows: int = 2, length: int = 256, **more: Any) -> dict[str, Any]:
    """The answer of the job."""
    return job.simulate({"plan": of.to_json(), "config": cfg or config(), "rows": rows, "length": length, **more})


def really(of: Plan, cfg: dict[str, Any], rows: int, length: int) -> Ledger:
    """The same step on real tensors."""
    from nothing_tune.engine.simulate import model, step

    shape, _ = model.config_of(of, cfg)
    ledger = Ledger(int(cfg["vocab_size"]), cuda=False)
    job.train(of, job.arguments(of), model.base(of, shape, None), step.Batch(rows, length), ledger)
    return ledger


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("llama", {"peft": {**LORA, "lora_dropout": 0.1, "use_dora": True}, "activation_checkpointing": False}),
        ("qwen2", {"peft": None, "gradient_accumulation_steps": 2}),
        ("gemma2", {"attention": "eager", "dtype": "float32", "bf16": False}),
        ("mixtral", {"peft": None, "optim": "adafactor"}),
        ("wide", {"peft": None}),
    ],
)
def test_fake_tensors_hold_what_real_ones_hold(kind: str, settings: dict[str, Any]) -> None:
    more = {"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "mixtral" else {}
    rows = 2
    if kind == "wide":  # the peak is where a shared embedding's two gradients are added up
        kind, more, rows = "llama", {"vocab_size": 65536, "hidden_size": 256}, 1
    of, cfg = plan(gpu=CPU, **settings), config(kind, **more)
    length = 128 if rows == 2 else 8
    told, real = peak(of, cfg, rows, length), really(of, cfg, rows, length)
    assert told["terms"] == real.at_peak
    assert told["peak"] == real.peak == sum(told["terms"].values())


PROCESS = """
import json, sys
from tests.engine import test_simulate as t
from nothing_tune.engine.simulate.ledger import Ledger
def status(key):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(key))
cfg = t.config(hidden_size=256, intermediate_size=768, vocab_size=32768)
of = t.plan(gpu=t.CPU, activation_checkpointing=False)
t.really(of, cfg, 1, 16)
marks = {}
def restart(self):
    self.restarted = self.now
    marks["before"] = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
Ledger.restart = restart
ledger = t.really(of, cfg, 2, 256)
print(json.dumps({"counted": ledger.peak - ledger.restarted, "grown": status("VmHWM") - marks["before"], "peak": ledger.peak}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_process_grows_by_what_is_counted() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["counted"] > 200e6
    assert got["counted"] == pytest.approx(got["grown"], rel=0.05)


def test_what_moves_memory_moves_the_peak() -> None:
    base = peak(plan(), rows=4, length=512)
    assert peak(plan(activation_checkpointing=False), rows=4, length=512)["peak"] > base["peak"]
    four = peak(plan(quantization=NF4), rows=4, length=512)
    assert four["terms"]["weights"] < 0.6 * base["terms"]["weights"]  # the embedding stays as it is
    eager = peak(plan(attention="eager", activation_checkpointing=False), rows=4, length=512)
    assert eager["peak"] > 1.5 * peak(plan(activation_checkpointing=False), rows=4, length=512)["peak"]
    assert peak(plan(peft=None), rows=4, length=512)["terms"]["optimizer"] > 4 * base["terms"]["optimizer"]


def test_grouped_heads_are_written_out_before_ampere() -> None:
    """PyTorch has no fused kernel for them there; with as many key heads as heads it has."""
    half = {
        "gpu": T4,
        "dtype": "float16",
        "bf16": False,
        "fp16": True,
        "trainable": "float32",
        "activation_checkpointing": False,
    }
    grouped = peak(plan(**half), rows=2, length=512)["terms"]["activations"]
    alike = peak(plan(**half), config(num_key_value_heads=4), rows=2, length=512)["terms"]["activations"]
    assert grouped > 2 * alike


def test_terms_of_full_training_are_those_of_its_types() -> None:
    cfg = config()
    told = peak(plan(peft=None, optim="adamw_torch_fused", gradient_accumulation_steps=2), cfg)
    weights = told["terms"]["weights"]
    assert told["terms"]["adapters"] == 0
    assert told["terms"]["gradients"] == pytest.approx(weights, rel=0.01)
    assert told["terms"]["optimizer"] == pytest.approx(2 * weights, rel=0.1)
    paged = peak(plan(peft=None, optim="paged_adamw_8bit"), cfg)
    eight = peak(plan(peft=None, optim="adamw_bnb_8bit"), cfg)
    assert paged["terms"]["optimizer"] <= eight["terms"]["optimizer"] < 0.6 * told["terms"]["optimizer"]
    assert "paged optimizer states are left out" in paged["notes"][0]


@pytest.mark.slow
def test_full_logits_packing_padding_and_supervision() -> None:
    large = config(vocab_size=32768)
    installed, full = peak(plan(), large, rows=8), peak(plan(), large, rows=8, loss="full")
    assert full["terms"]["logits"] > 2 * installed["terms"]["logits"]
    assert peak(plan(), large, rows=8, supervised=0.1)["terms"]["logits"] < 0.5 * installed["terms"]["logits"]
    without = {"activation_checkpointing": False}
    padded = peak(plan(**without), rows=4, padded=True)["peak"]
    assert padded > peak(plan(**without), rows=4)["peak"]  # a mask, and keys repeated
    packed = {**without, "packing": True, "packing_strategy": "bfd"}
    flash = peak(plan(attention="flash_attention_2", **packed), rows=4)
    assert peak(plan(**packed), rows=4)["peak"] > flash["peak"]  # the mask of all tokens by all tokens


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2", "mixtral"])
def test_families_and_quantised_bases(kind: str) -> None:
    more = {"num_local_experts": 4, "num_experts_per_tok": 2} if kind == "mixtral" else {}
    cfg = config(kind, **more)
    attention = "eager" if kind == "gemma2" else "sdpa"
    four = peak(plan(quantization=NF4, attention=attention), cfg)
    eight = peak(plan(quantization={"load_in_8bit": True}, attention=attention), cfg)
    whole = peak(plan(attention=attention), cfg)
    assert four["terms"]["weights"] < eight["terms"]["weights"] < whole["terms"]["weights"]
    assert 0 < four["terms"]["adapters"] < whole["terms"]["adapters"]  # TRL gives them bf16, PEFT float32


def test_a_large_model_takes_no_memory() -> None:
    """A quarter of Llama 2 13B's layers: 6.8 GB of weights."""
    large = config(
        hidden_size=5120, num_hidden_layers=10, num_attention_heads=40, num_key_value_heads=40, intermediate_size=13824,
        vocab_size=32000, head_dim=128, tie_word_embeddings=False,
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = peak(plan(), large, rows=1, length=1024)
    assert told["terms"]["weights"] == pytest.approx(
        2 * (2 * 32000 * 5120 + 10 * (4 * 5120**2 + 3 * 5120 * 13824 + 2 * 5120) + 5120), rel=1e-3
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # KiB


def test_what_cannot_be_simulated_says_why() -> None:
    cases: list[tuple[Plan, dict[str, Any], type[Exception], str, str]] = [
        (
            plan(),
            config("nothing"),
            UsageError,
            f"transformers {metadata.version('transformers')} does not know the architecture 'nothing' of x",
            "take a newer transformers, or model.trust_remote_code=true where the model brings its code",
        ),
        (
            plan(),
            {"model_type": "own", "auto_map": {"AutoModel": "own.Model"}},
            UsageError,
            "the model's architecture own comes as code of its own, which is not run for a simulation",
            "choose a model whose architecture is part of transformers",
        ),
        (
            plan({**LORA, "target_modules": ["query", "value"]}),
            config(),
            UsageError,
            "peft.target_modules query, value matches nothing in the model",
            "linear layers there are: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj",
        ),
        (
            plan({**LORA, "lora_dropout": 0.1, "target_modules": "all-linear"}),
            config("mixtral", num_local_experts=2, num_experts_per_tok=1),
            PlanError,
            "PEFT refuses this model or these settings: lora.ParamWrapper does not work with lora_dropout != 0",
            "set peft.lora_dropout=0: the experts' weights are one parameter, which PEFT adapts without dropout",
        ),
        (
            plan(),
            config("gemma2", attn_logit_softcapping=50.0),
            PlanError,
            "the architecture 'gemma2' does not run with attn_implementation sdpa",
            "set model.attn_implementation=eager",
        ),
        (plan(optim="lomo"), config(), PlanError, "the memory of optimizer lomo is not simulated", "use an adamw"),
        (
            plan(deepspeed="zero.json"),
            config(),
            PlanError,
            "training with deepspeed is not simulated",
            "without --simulate",
        ),
        (
            plan(peft=None, quantization=NF4),
            config(),
            PlanError,
            "nothing of a quantised model can be trained",
            "set peft",
        ),
        (
            plan(),
            config(quantization_config={"quant_method": "gptq", "bits": 4}),
            PlanError,
            "the model is stored quantised by gptq, which is not simulated",
            "name the model that it was made from",
        ),
        (
            plan(),
            {"model_type": "t5"},
            UsageError,
            "the architecture 't5' is no causal language model",
            "generates text",
        ),
    ]
    for of, cfg, kind, what, hint in cases:
        with pytest.raises(kind) as caught:
            peak(of, cfg)
        problem = caught.value.problems[0]  # type: ignore[attr-defined]
        assert problem.what == what
        assert hint in problem.hint


def test_the_job_answers_in_json_lines() -> None:
    request = {"plan": plan().to_json(), "config": config(), "rows": 2, "length": 64}
    out = io.StringIO()
    assert job.main(io.StringIO(json.dumps(request) + "\n"), out) == 0
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [e["type"] for e in events] == ["progress"] * 3 + ["simulation"]
    assert (events[-1]["rows"], events[-1]["length"]) == (2, 64)
    assert events[-1]["peak"] == sum(events[-1]["terms"].values())
    out = io.StringIO()
    assert job.main(io.StringIO(json.dumps({**request, "config": {"model_type": "nothing"}}) + "\n"), out) == 2
    assert json.loads(out.getvalue().splitlines()[-1])["type"] == "error"


def test_the_ledger_counts_what_lives() -> None:
    import torch

    ledger = Ledger()
    with ledger:
        first = torch.empty(1000)
        second = first.view(10, 100)
        assert ledger.now == rounded(4000) == 8 * BLOCK
        del first
        assert ledger.now == 8 * BLOCK  # the view keeps it
        del second
        assert ledger.now == 0
        ledger.passing([1, BLOCK])
        assert ledger.peak == 8 * BLOCK
