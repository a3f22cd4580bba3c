"""One session, in this process: what is trained, reported and handed over."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.engine.support import NF4, MakeRun, events, losses, tiny_model, tiny_tokenizer, train


def test_a_run_trains_and_says_what_it_did(make_run: MakeRun) -> None:
    run = make_run(**{"checkpoint.best": True})
    result = train(run)
    assert (result["state"], result["exit_code"], result["error"]) == ("done", 0, None)
    assert result["step"] == 6
    assert len(losses(run)) == 6
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= {
        p.name for p in run.adapter.iterdir()
    }
    assert not list(run.path.rglob("*.bin"))
    assert not list(run.path.glob(".adapter*"))
    [start] = events(run, "start")
    assert (start["train_rows"], start["eval_rows"], start["device"], start["dtype"]) == (32, 8, "cpu", "float32")
    assert start["supervised_tokens"] > 0
    assert start["trainable_parameters"] < start["total_parameters"]
    status = run.status()
    assert (status["state"], status["step"], status["total_steps"], status["attempt"]) == ("done", 6, 6, 1)
    evals = {e["step"]: e["metrics"]["eval_loss"] for e in events(run, "eval")}
    assert set(evals) == {2, 4, 6}
    [best] = events(run, "best")
    assert best["step"] == min(evals, key=lambda s: evals[s]) == result["metrics"]["best_step"]
    assert best["eval_loss"] == result["metrics"]["best_eval_loss"] == min(evals.values())
    log = events(run, "log")[-1]
    assert log["tokens_per_s"] > 0
    assert log["num_tokens"] > 0
    assert log["memory_gib"] > 0
    assert log["eta_s"] == 0
    assert math.isclose(result["metrics"]["train_loss"], sum(losses(run).values()) / 6, rel_tol=1e-6)


def test_the_best_checkpoint_survives_rotation_and_is_handed_over(make_run: MakeRun, tmp_path: Path) -> None:
    held_out = tmp_path / "eval.jsonl"  # rows that training on the others makes worse at
    turns = [{"role": "user", "content": "zz 99"}, {"role": "assistant", "content": "%% qq ## 77 zz 99 ;;"}]
    held_out.write_text("\n".join(json.dumps({"messages": turns}) for _ in range(4)))
    run = make_run(**{
        "checkpoint.best": True, "data.eval": str(held_out), "training.learning_rate": 0.03, "training.max_steps": 10,
        "training.lr_scheduler_type": "constant",
    })  # fmt: skip
    result = train(run)
    evals = {e["step"]: e["metrics"]["eval_loss"] for e in events(run, "eval")}
    best = min(evals, key=lambda s: evals[s])
    assert best < 8, evals
    kept = sorted(int(p.name.split("-")[1]) for p in run.checkpoints.glob("checkpoint-*"))
    assert kept == [best, 8, 10]
    from nothing_tune.engine.handover import digest

    assert result["digest"] == digest(run.adapter) == digest(run.checkpoints / f"checkpoint-{best}")


@pytest.mark.parametrize(
    ("kind", "row", "tokens"),
    [
        ("text", {"text": "alpha beta gamma"}, None),
        ("prompt-completion", {"prompt": "alpha beta", "completion": " gamma delta"}, None),
        (
            "prompt-completion",
            {
                "prompt": [{"role": "user", "content": "alpha"}],
                "completion": [{"role": "assistant", "content": "beta"}],
            },
            None,
        ),
    ],
)
def test_every_format_trains(make_run: MakeRun, tmp_path: Path, kind: str, row: dict, tokens: None) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row).replace("alpha", f"alpha {n}") for n in range(12)))
    run = make_run(**{"data.train": str(path), "training.max_steps": 2})
    assert train(run)["state"] == "done"
    assert events(run, "start")[0]["format"] == kind


def test_only_the_assistant_is_learned_on_messages_unless_the_plan_says_otherwise(make_run: MakeRun) -> None:
    few, all_ = make_run("run-few"), make_run("run-all", **{"training.assistant_only_loss": False})
    train(few), train(all_)
    assert events(few, "start")[0]["supervised_tokens"] < events(all_, "start")[0]["supervised_tokens"]


def test_evaluation_off_trains_on_every_row(make_run: MakeRun) -> None:
    run = make_run(**{"training.eval_strategy": "no"})
    train(run)
    start = events(run, "start")[0]
    assert (start["train_rows"], start["eval_rows"]) == (40, 0)


def test_early_stopping_counts_as_transformers_does(make_run: MakeRun) -> None:
    run = make_run(**{
        "monitor": {"early_stopping_patience": 2, "early_stopping_threshold": 10.0}, "training.max_steps": 20, "training.eval_steps": 1,
        "training.save_steps": 1,
    })  # fmt: skip
    result = train(run)
    assert result["state"] == "done"
    assert result["step"] == 3
    assert events(run, "early_stop")[0]["step"] == 3


def test_full_fine_tuning_hands_over_a_model(make_run: MakeRun) -> None:
    run = make_run(**{"peft": None, "checkpoint.best": True})
    assert train(run)["state"] == "done"
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(run.adapter)
    assert AutoTokenizer.from_pretrained(run.adapter).chat_template


def test_evaluating_on_the_way_changes_nothing_with_4bit(make_run: MakeRun, rows_file: Path) -> None:
    # without dropout: starting an evaluation draws one number from torch's generator, here as in plain transformers
    digests = set()
    for name, strategy in (("run-with", "steps"), ("run-without", "no")):
        changes = {
            "quantization": NF4,
            "peft": {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"},
            "data.eval": str(rows_file),
            "data.leakage": "keep",
        }
        run = make_run(name, **changes, **{"training.eval_strategy": strategy})
        digests.add(train(run)["digest"])
    assert len(digests) == 1


def test_fp16_plans_train_float32_weights(make_run: MakeRun) -> None:
    run = make_run(quantization=NF4, trainable_dtype="float32")
    train(run)
    state = json.loads((run.checkpoints / "checkpoint-6" / "tune-state.json").read_text())
    assert {dtype for dtype, _ in state["trainable"].values()} == {"float32"}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("quantization", [None, NF4])
@pytest.mark.parametrize("peft", ["LORA", "IA3", None])
def test_a_base_without_a_template_learns_chatml(
    make_run: MakeRun, tmp_path: Path, tied: bool, quantization: dict | None, peft: str | None
) -> None:
    if quantization and not peft:
        pytest.skip("4-bit weights are never trained themselves")
    tok = tiny_tokenizer(("<|pad|>", "<|endoftext|>"), pad_token="<|pad|>", eos_token="<|endoftext|>")
    base = tiny_model(tmp_path / "base", tied=tied, template=None, tokenizer=tok)
    changes = {"model.name_or_path": str(base), "quantization": quantization, "training.learning_rate": 0.05}
    if peft == "IA3":
        changes["peft"] = {
            "peft_type": "IA3",
            "task_type": "CAUSAL_LM",
            "target_modules": ["q_proj", "down_proj"],
            "feedforward_modules": ["down_proj"],
        }
    elif peft is None:
        changes["peft"] = None
    run = make_run(**changes)
    assert train(run)["state"] == "done"
    assert events(run, "start")[0]["chat_template"] == "chatml"

    import torch

    from nothing_tune.engine import chat

    model, tokenizer = chat.load(run, base=False)
    assert tokenizer.eos_token == "<|im_end|>"
    assert "generation %}" not in tokenizer.chat_template
    ids = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert max(ids) < model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        before = chat.load(run, base=True)[0].get_input_embeddings().weight[:400].mean(dim=0)
        rows = model.get_input_embeddings().weight[ids].float()
    assert not torch.allclose(rows[0], before.float(), atol=1e-3), "the new rows were not trained"
    assert not torch.allclose(rows[0], rows[1])


def test_a_base_that_no_checkpoint_beats_is_told(make_run: MakeRun) -> None:
    run = make_run(
        **{"checkpoint.best": True, "training.learning_rate": 1.0, "training.eval_on_start": True, "peft": None}
    )
    result = train(run)
    assert result["state"] == "done"
    assert result["metrics"]["best_step"] > 0
    [told] = [e["what"] for e in events(run, "warning") if "base model" in e["what"]]
    assert told.startswith("no checkpoint is better than the base model: eval_loss ")
    assert not [e for e in events(run, "warning") if "handed over" in e["what"]]
