"""What a rehearsal proves of a finished run: that going on from a checkpoint gives the same, that the adapter loads, that it merges."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nothing_tune.artifacts import Run, write_json
from nothing_tune.engine import build, chat, handover
from nothing_tune.errors import Problem, RunError
from nothing_tune.plan.model import Plan

MERGED_TOLERANCE = 1e-4
"""Largest difference of a logit between the adapter and its merge in float32, as a share of the largest logit."""
HALF_TOLERANCE = 0.1
"""The same for the merged model rounded to 16 bits, saved and loaded again (bfloat16 keeps 8 bits of a number)."""
NEW_TOKENS = 8
BESIDE = (
    "adapter",
    "result.json",
    "events.jsonl",
    "status.json",
    "run.lock",
    "attempts",
    "engine.log",
    ".adapter.tmp",
    "tracking",
)
"""What a run that goes on from a copy of its checkpoint must not have."""


def halfway(run: Run, step: int, name: str) -> Run:
    """A copy of `run` as it would be had it been killed after the checkpoint of `step`."""
    later = [p.name for p in run.checkpoints.iterdir() if p.name != f"checkpoint-{step}"]
    other = Run(run.path.parent / name)
    shutil.copytree(run.path, other.path, ignore=lambda _, names: [n for n in names if n in (*BESIDE, *later)])
    plan = run.plan()
    write_json(other.path / "plan.json", {**plan, "monitor": {**plan["monitor"], "rehearse": False}})
    status = run.status()
    write_json(
        other.path / "status.json",
        {k: status[k] for k in ("created", "recipe", "gpu") if k in status} | {"state": "starting"},
    )
    return other


def same(whole: Run, resumed: Run, step: int, last: int) -> dict[str, Any]:
    """What was compared between a run and the one that went on from its checkpoint of `step`, both at step `last`.

    Raises:
        RunError: It did not go on there, or does not end with the same weights, losses and adapter.
    """
    went_on = [e.get("step") for e, _ in resumed.events() if e["type"] == "resume"]
    if went_on != [step]:
        why = next((str(e.get("why")) for e, _ in resumed.events() if e["type"] == "torn"), "")
        raise RunError(
            Problem(
                f"the run did not go on at its checkpoint of step {step}{f': {why}' if why else ''}",
                key="training.save_steps",
                hint="something changes or removes checkpoints after they are written: look at checkpoint.on_commit",
            )
        )
    other = []
    folders = [run.checkpoints / f"checkpoint-{last}" for run in (whole, resumed)]
    if handover.digest(folders[0]) != handover.digest(folders[1]):
        other.append(f"the weights of step {last}")
    lost = [n for n, loss in _losses(whole).items() if n > step and _losses(resumed).get(n) != loss]
    if lost:
        other.append(f"the loss of step {lost[0]}")
    ends = [(run.result() or {}).get("digest") for run in (whole, resumed)]
    if ends[0] != ends[1]:
        other.append("the adapter")
    if other:
        raise RunError(
            Problem(
                f"going on from the checkpoint of step {step} does not give the same as not stopping: {', '.join(other)} differ",
                key="training.save_steps",
                hint="a run that is interrupted would not end as one that is not; please report it with the recipe",
            )
        )
    return {"step": step, "last": last, "digest": ends[0]}


def reloads(run: Run, plan: Plan) -> dict[str, Any]:
    """Loads what was handed over as `tune chat` does, and answers with it: `{"tensors", "tokens"}`.

    Raises:
        RunError: Tensors of the adapter do not arrive in the model as they were written.
    """
    model, tokenizer = chat.load(run, base=False)
    written: dict[str, torch.Tensor] = {}
    for path in sorted(run.adapter.glob("*.safetensors")):
        written |= load_file(path)
    if plan.peft:
        from peft import get_peft_model_state_dict

        loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
        whole = model.state_dict()  # embeddings that grew are saved with the adapter

        def arrived(name: str) -> bool:
            there = loaded.get(name, whole.get(name))
            return name in written and there is not None and torch.equal(written[name].float(), there.float().cpu())

        wrong = sorted(name for name in {*written, *loaded} if not arrived(name))
        if wrong:
            raise RunError(
                Problem(
                    f"{len(wrong)} of {len(written)} tensors of the adapter do not load as they were saved, first {wrong[0]}",
                    key="peft",
                    hint="PEFT would leave them at their start without a word; leave out the last thing that was changed in peft",
                )
            )
    model.eval()
    request = {"messages": [{"role": "user", "content": "Hello?"}], "max_new_tokens": NEW_TOKENS, "temperature": 0}
    tokens = [count for _, count in chat.reply(model, tokenizer, request)][-1]
    return {"tensors": len(written), "tokens": tokens}


def merges(run: Run, plan: Plan, folder: Path) -> dict[str, Any]:
    """Merges the adapter into the base that is not quantised, and compares: `{"error", "effect", "half"}`, all shares of the largest logit.

    Returns `{"left_out": why}` where there is nothing to merge.

    Raises:
        RunError: The merged model answers otherwise than base and adapter.
    """
    if not plan.peft:
        return {"left_out": "full fine-tuning hands over a whole model"}
    from peft import PeftModel
    from transformers import AutoTokenizer

    init = {**(plan.model.get("init") or {}), "dtype": "float32"}
    base = build.model(replace(plan, quantization=None, model={**plan.model, "init": init}))
    tokenizer = AutoTokenizer.from_pretrained(run.adapter)
    build.grow(base, tokenizer)
    model = PeftModel.from_pretrained(base, str(run.adapter)).eval()
    if not hasattr(model.base_model, "merge_and_unload"):
        return {"left_out": f"PEFT has no merge for {plan.peft.get('peft_type')}"}
    ids = _ids(len(tokenizer))
    with torch.no_grad():
        adapted = model(input_ids=ids, use_cache=False).logits
        with model.disable_adapter():
            plain = model(input_ids=ids, use_cache=False).logits
        try:
            merged = model.merge_and_unload()
        except NotImplementedError as why:
            return {"left_out": f"PEFT has no merge for it: {why}"}
        together = merged(input_ids=ids, use_cache=False).logits
        scale = float(adapted.abs().max())
        error = float((adapted - together).abs().max()) / scale
        if not error <= MERGED_TOLERANCE:
            raise RunError(_differs("the merged model", error, MERGED_TOLERANCE))
        merged.to(torch.bfloat16).save_pretrained(folder)
        again = type(merged).from_pretrained(folder, dtype=torch.bfloat16).eval()
        half = float((adapted - again(input_ids=ids, use_cache=False).logits.float()).abs().max()) / scale
    if not half <= HALF_TOLERANCE:
        raise RunError(_differs("the merged model, saved in 16 bits and loaded again,", half, HALF_TOLERANCE))
    return {"error": error, "effect": float((adapted - plain).abs().max()) / scale, "half": half}


def _ids(vocabulary: int) -> torch.Tensor:
    """Forty tokens from all over the vocabulary."""
    return torch.linspace(0, max(vocabulary - 1, 1), 40).long()[None]


def _differs(what: str, error: float, allowed: float) -> Problem:
    return Problem(
        f"{what} answers otherwise than base and adapter: by {error:.2g} of the largest logit, {allowed:g} is allowed",
        key="peft",
        hint="what is served from a merge would not be what was trained; serve the adapter, or use another peft method",
    )


def _losses(run: Run) -> dict[int, float]:
    return {
        int(e["step"]): float(e["metrics"]["loss"])
        for e, _ in run.events()
        if e["type"] == "log" and "loss" in (e.get("metrics") or {})
    }
