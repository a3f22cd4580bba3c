"""What a run must find again when it goes on: the rows as they are trained on, tokenizer, template, base model, versions, settings.

The fingerprints are written into every checkpoint and compared before one is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from nothing_tune.engine.journal import Journal
from nothing_tune.errors import Problem, ResumeRefused
from nothing_tune.plan import drift
from nothing_tune.plan.model import Plan
from nothing_tune.recipe.model import leaves

DRIFT = "TUNE_ALLOW_VERSION_DRIFT"
"""Environment variable that lets a run go on with other library versions."""
SAMPLE = 256
"""Numbers taken from each weight of the base model."""
_SOLVED = {
    "per_device_train_batch_size", "gradient_accumulation_steps", "per_device_eval_batch_size", "gradient_checkpointing",
    "activation_checkpointing", "gradient_checkpointing_kwargs", "ddp_backend", "ddp_find_unused_parameters",
}  # fmt: skip
"""Arguments that follow the number of processes, and what was changed because memory ran out."""
_WHAT = {
    "train_tokens": "the training rows are not those",
    "eval_tokens": "the evaluation rows are not those",
    "tokenizer": "the tokenizer is not the one",
    "chat_template": "the chat template is not the one",
    "model": "the base model is not the one",
}


LEARNED_FROM = ("input_ids", "labels", "seq_lengths")
"""Columns of prepared rows that the Trainer reads; where a row comes from may change."""


def of_rows(dataset: Any) -> str | None:
    """sha256 over the tokens and labels of prepared rows, in order; None for none. Files and caches play no part."""
    if dataset is None:
        return None
    digest = hashlib.sha256()
    columns = sorted(set(dataset.column_names) & set(LEARNED_FROM))
    digest.update(json.dumps([columns, len(dataset)]).encode())
    for table in dataset.with_format("arrow").iter(batch_size=1000):
        for name in columns:
            column = table[name].combine_chunks()
            while hasattr(column, "value_lengths"):
                digest.update(column.value_lengths().to_numpy(zero_copy_only=False).astype("int64").tobytes())
                column = column.flatten()
            kind = str(column.type)
            if kind.startswith(("int", "uint", "bool")):
                digest.update(column.to_numpy(zero_copy_only=False).astype("int64").tobytes())
            else:
                digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()


def of_model(model: Any) -> str:
    """sha256 of names, shapes, types and a sample of the numbers of every weight: another base, or another revision, differs."""
    import torch

    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        if not isinstance(weight, torch.Tensor):
            continue
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLE)][:SAMPLE].contiguous().cpu()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes() if some.numel() else b"")
    return digest.hexdigest()


def of_tokenizer(tokenizer: Any) -> str:
    """sha256 of the vocabulary, merges, normalisation and special tokens."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    body = core.to_str() if core is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    if core is not None:  # padding and truncation are set while a tokenizer is used
        body = json.dumps(
            {k: v for k, v in json.loads(body).items() if k not in ("padding", "truncation")}, sort_keys=True
        )
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return hashlib.sha256(f"{body}{special}".encode()).hexdigest()


def of_text(text: str | None) -> str | None:
    """sha256 of a text; None for None."""
    return hashlib.sha256(text.encode()).hexdigest() if text is not None else None


def settings(plan: Plan) -> dict[str, Any]:
    """The leaves of the resolved recipe that a checkpoint remembers: all that may not change freely, but for where the data lies.

    With them, under `plan.`, go those of the arguments that were compiled from it, so that a damaged plan.json is noticed.
    """
    found = json.loads(json.dumps(drift.flat(plan.values)))
    arguments = {
        "training": {
            k: v for k, v in plan.training.items() if k not in _SOLVED and f"training.{k}" not in drift.EXTEND_ONLY
        },
        "peft": plan.peft,
        "quantization": plan.quantization,
        "model": {k: v for k, v in plan.model.items() if k != "name_or_path"},  # which may come from the environment
        "trainable_dtype": plan.trainable_dtype,
    }
    compiled = {k: v for k, v in json.loads(json.dumps(leaves(arguments))).items() if not drift.is_free(k)}
    return {
        **{k: v for k, v in found.items() if not drift.is_free(k) and k not in drift.BY_CONTENT},
        **{f"plan.{k}": v for k, v in compiled.items()},
    }


def compare(manifest: dict[str, Any], plan: Plan, now: dict[str, Any], run: str, journal: Journal) -> None:
    """Compares what a checkpoint was written with to what there is now; says what is harmless.

    Raises:
        ResumeRefused: Settings, data, tokenizer, template, base model or library versions differ; all of them at once.
    """
    problems: list[Problem] = []
    then = {k: v for k, v in (manifest.get("settings") or {}).items() if k not in drift.BY_CONTENT}
    if then:
        compiled = any(k.startswith("plan.") for k in then)  # not in a checkpoint that was taken over from another run
        here = {k: v for k, v in settings(plan).items() if compiled or not k.startswith("plan.")}
        changed = drift.changes(then, here)
        known = {c.key for c in changed}
        problems += drift.refusals([c for c in changed if not c.key.startswith("plan.")], run)
        problems += [
            Problem(
                f"{c.key} was {drift.shown(c.before)} and is {drift.shown(c.after)}, though the recipe is the same",
                hint=f"plan.json of the run was changed or is damaged; tune runs fork {run} makes it anew from recipe.yaml",
            )
            for c in changed
            if c.key.startswith("plan.") and c.key.removeprefix("plan.") not in known and c.kind == "frozen"
        ]
    before = manifest.get("fingerprints") or {}
    _same_preparation(before, plan, problems, run)
    if not before:
        journal.warn(
            "the checkpoint was written by a version that kept no fingerprints of data and model",
            "that they are the same is taken on trust",
        )
    for key, what in _WHAT.items():
        if key in before and before[key] != now.get(key):
            rows = [f"{side.get('rows')} rows " if key == "train_tokens" else "" for side in (before, now)]
            marks = [str(side.get(key))[:8] for side in (before, now)]
            problems.append(
                Problem(
                    f"{what} that the run was started with: {rows[0]}{marks[0]} then, {rows[1]}{marks[1]} now",
                    hint=f"put back what was there then, or start from its weights with what is there now: "
                    f"tune runs fork {run} --restart",
                )
            )
    problems += _versions(manifest.get("versions") or {}, journal)
    if problems:
        raise ResumeRefused(*problems)
    world = int(manifest.get("world_size") or 1)
    if world != plan.world_size:
        rows_a_step = (
            plan.world_size
            * int(plan.training.get("per_device_train_batch_size") or 1)
            * int(plan.training.get("gradient_accumulation_steps") or 1)
        )
        journal.warn(
            f"the checkpoint was trained by {world} {'process' if world == 1 else 'processes'} and goes on with {plan.world_size}",
            f"a step still has {rows_a_step} rows; the result is not bit for bit that of an uninterrupted run",
        )


def _same_preparation(before: dict[str, Any], plan: Plan, problems: list[Problem], run: str) -> None:
    """Rows that an older version chose by another rule cannot be found again: that of a held out share."""
    share = plan.data.get("eval")
    if plan.version < 2 and isinstance(share, int | float) and share and "train_tokens" not in before:
        problems.append(
            Problem(
                f"the run was made by a version that chose the {share:g} of held out rows in another way",
                hint=f"finish it with nothing-tune 0.1.0, or start from its weights: tune runs fork {run} --restart",
            )
        )


def _versions(before: dict[str, str], journal: Journal) -> list[Problem]:
    from nothing_tune.artifacts.checkpoint import versions

    now = versions()
    out = []
    for name, was in before.items():
        here = now.get(name, "none")
        if here == was:
            continue
        what = f"{name} was {was} and is {here}"
        same_minor = was.split("+")[0].split(".")[:2] == here.split("+")[0].split(".")[:2]
        if name == "nothing-tune" or same_minor or os.environ.get(DRIFT) == "1":
            journal.warn(what, "the result may differ in the last bits from that of an uninterrupted run")
        else:
            out.append(
                Problem(what, hint=f"pip install {name}=={was.split('+')[0]}, or resume with --allow-version-drift")
            )
    return out
