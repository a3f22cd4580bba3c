"""What is handed over is what was trained, read by plain PEFT on the plain base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nothing_tune.engine import session
from nothing_tune.engine.handover import digest
from tests.engine.support import NF4, MakeRun, events, tiny_model, train

LORA = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collects the trainers of the sessions that a test runs."""
    found: list[Any] = []
    original = session._trainer

    def keep(*args: Any) -> Any:
        found.append(original(*args))
        return found[-1]

    monkeypatch.setattr(session, "_trainer", keep)
    return found


def logits(model: Any) -> torch.Tensor:
    """Logits of a fixed input, the model put back as it was."""
    ids = torch.arange(5, 45).reshape(2, 20)
    was = model.training
    model.eval()
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=ids).logits.float()
    model.train(was)
    return out


def plainly_loaded(base: Path, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4"},
        {"init_lora_weights": "pissa", "use_rslora": True},
        {"init_lora_weights": "pissa", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 16}},
        {"init_lora_weights": "olora"},
    ],
    ids=lambda s: "-".join(map(str, s.values())) or "lora",
)
def test_the_adapter_on_the_plain_base_gives_the_trained_logits(
    settings: dict, make_run: MakeRun, model_dir: Path, trained: list[Any]
) -> None:
    run = make_run(**{"peft": {**LORA, **settings}, "training.learning_rate": 0.02})
    result = train(run)
    assert result["state"] == "done"
    [trainer] = trained
    loaded = plainly_loaded(model_dir, run.adapter)
    expected = logits(trainer.model)
    with loaded.disable_adapter():
        moved = (logits(loaded) - expected).abs().max()
    assert moved > 0.05, "the training was meant to change something"
    assert (logits(loaded) - expected).abs().max() < 1e-4
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    if str(settings.get("init_lora_weights", "")).startswith(("pissa", "olora")):
        assert config["init_lora_weights"] is True
        assert config["r"] == 8
        assert "plain LoRA" in result["notes"][0]
        assert "plain LoRA" in (run.adapter / "README.md").read_text()


@pytest.mark.gpu
def test_a_loftq_adapter_repeats_loftq_when_peft_loads_it(
    make_run: MakeRun, model_dir: Path, trained: list[Any]
) -> None:
    pytest.importorskip("scipy", reason="PEFT computes LoftQ with scipy")
    if not torch.cuda.is_available():
        pytest.skip("PEFT computes LoftQ on a CUDA GPU")
    loftq = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}}
    run = make_run(**{"peft": {**LORA, **loftq}, "training.use_cpu": False})
    result = train(run)
    assert result["state"] == "done"
    assert "LoftQ" in result["notes"][0]
    assert "LoftQ" in (run.adapter / "README.md").read_text()
    loaded = plainly_loaded(model_dir, run.adapter)
    assert (logits(loaded) - logits(trained[0].model.cpu())).abs().max() < 1e-3


def test_the_job_that_chats_gives_the_trained_logits(make_run: MakeRun, trained: list[Any]) -> None:
    from nothing_tune.engine import chat

    run = make_run(quantization=NF4)
    train(run)
    model, _ = chat.load(run, base=False)
    assert (
        logits(model) - logits(trained[0].model)
    ).abs().max() < 2e-2  # the adapter trained in bfloat16 is read in float32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft": {**LORA, "init_lora_weights": "pissa"}, "quantization": NF4}, "rewrites the base weights"),
        ({"peft": {**LORA, "init_lora_weights": "olora"}, "quantization": NF4}, "rewrites the base weights"),
        ({"peft": {**LORA, "init_lora_weights": "loftq"}, "quantization": NF4}, "rewrites the base weights"),
        ({"peft": {**LORA, "init_lora_weights": "pissa", "use_dora": True}}, "cannot be handed over"),
        ({"peft": {**LORA, "init_lora_weights": "eva"}}, "preparation on batches of data"),
        ({"peft": {"peft_type": "NOPE"}}, "PEFT has no method 'NOPE'"),
        ({"peft": {**LORA, "rank": 4}}, "PEFT refuses"),
    ],
)
def test_what_cannot_be_trained_rightly_is_an_impossible_plan(changes: dict, words: str, make_run: MakeRun) -> None:
    result = train(make_run(**changes))
    assert (result["state"], result["exit_code"]) == ("failed", 3)
    assert words in result["error"]["problems"][0]["what"]


def test_the_adapter_carries_the_models_own_template(make_run: MakeRun, tmp_path: Path) -> None:
    own = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    own += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    base = tiny_model(tmp_path / "base", template=own)
    run = make_run(**{"model.name_or_path": str(base)})
    assert train(run)["state"] == "done"
    assert events(run, "start")[0]["chat_template"] == "chatml"
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(run.adapter).chat_template == own
    assert AutoTokenizer.from_pretrained(run.checkpoints / "checkpoint-6").chat_template == own


def test_a_digest_does_not_depend_on_the_dtype_that_holds_the_values(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    value = torch.randn(3, 4).to(torch.bfloat16)
    for name, tensor in (("a", value), ("b", value.float()), ("c", value.float() + 1e-3)):
        (tmp_path / name).mkdir()
        save_file({"w": tensor}, tmp_path / name / "adapter_model.safetensors")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
