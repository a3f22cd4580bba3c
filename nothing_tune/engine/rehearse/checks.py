"""Looks that a rehearsal takes besides what it runs: the hook, whether anything is evaluated in time, whether the tokens fit. Light."""

from __future__ import annotations

import shlex
import shutil
from typing import Any

from nothing_tune.errors import Problem, UsageError
from nothing_tune.plan.model import Plan


def hook(plan: Plan) -> list[str]:
    """Warns where the program of `checkpoint.on_commit` is not here; it is not run, so that nothing is sent anywhere."""
    words = shlex.split(str(plan.checkpoint.get("on_commit") or ""))
    if not words or shutil.which(words[0]):
        return []
    return [
        f"checkpoint.on_commit: there is no program {words[0]} here; without it a run warns and removes no checkpoint"
    ]


def evaluates_in_time(plan: Plan, total: int | None, evaluations: int | None) -> None:
    """`UsageError` where the best checkpoint is asked for and the training never evaluates.

    An evaluation is due at the end whatever `eval_steps` is (see `plan.maths`): only a delay beyond the end prevents all.

    Args:
        total: Steps of the training; None where it is unknown.
        evaluations: How many evaluations `plan.maths` counts; None where it is unknown.
    """
    sample = plan.data.get("sample") or {}
    if sample.get("train") and sample["train"] == plan.data.get("train"):
        return  # a sample is shorter than what the recipe is for
    if not total or evaluations is None or evaluations or not plan.checkpoint.get("best"):
        return
    wanted = "the best checkpoint is to be handed over, and nothing is evaluated"
    if str(plan.training.get("eval_strategy") or "no") == "no":
        what, key = "training.eval_strategy is no", "training.eval_strategy"
        cure = "set training.eval_strategy=steps"
    elif plan.training.get("eval_delay"):
        unit = "epochs" if plan.training["eval_strategy"] == "epoch" else "steps"
        ends = f"{total} {'step' if total == 1 else 'steps'}"
        what = f"training.eval_delay is {plan.training['eval_delay']:g} {unit}, and the training ends after {ends}"
        key, cure = "training.eval_delay", "set training.eval_delay=0"
    else:
        what, key, cure = (
            "there are no rows to evaluate on",
            "data.eval",
            "set data.eval to a share such as 0.1, or to a file",
        )
    raise UsageError(Problem(f"{wanted}: {what}", key=key, hint=f"{cure}, or training.load_best_model_at_end=false"))


def tokens_fit(plan: Plan, tokenizer: Any, config: Any, found: dict[str, Any]) -> list[str]:
    """Warns where the tokenizer knows more tokens than the model; `UsageError` where one that training needs is beyond it."""
    vocabulary = int(getattr(config.get_text_config(), "vocab_size", 0) or 0)
    if not vocabulary or len(tokenizer) <= vocabulary or found["template"] == "chatml":
        return []
    pad = plan.training.get("pad_token") or tokenizer.pad_token or tokenizer.eos_token
    end = plan.training.get("eos_token") or tokenizer.eos_token
    beyond = {
        token: number
        for token in (pad, end, tokenizer.bos_token)
        if token and isinstance(number := tokenizer.convert_tokens_to_ids(token), int) and number >= vocabulary
    }
    if beyond:
        told = ", ".join(f"{token} ({number})" for token, number in beyond.items())
        raise UsageError(
            Problem(
                f"the tokenizer knows {len(tokenizer):,} tokens and the model {vocabulary:,}: {told} is beyond its embeddings",
                key="model.name_or_path",
                hint="take the model's own tokenizer, another training.pad_token, or a model whose embeddings were resized",
            )
        )
    return [
        f"the tokenizer knows {len(tokenizer):,} tokens and the model {vocabulary:,}; no row holds one that is beyond it"
    ]
