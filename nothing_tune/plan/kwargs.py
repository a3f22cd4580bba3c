"""Compiles a recipe's values into the keyword arguments that the engine builds its objects from."""

from __future__ import annotations

import copy
from typing import Any

from nothing_tune.recipe import duration

TRAINER_GETS: dict[str, tuple[Any, str]] = {
    "report_to": ("none", "tune sends every event to the tracker itself, so that a tracker cannot end a run"),
    "save_total_limit": (None, "tune removes old checkpoints itself, and never the best one"),
    "load_best_model_at_end": (False, "tune picks the best committed checkpoint itself"),
    "logging_nan_inf_filter": (False, "a loss that is not finite must be seen"),
    "disable_tqdm": (True, "tune draws the progress"),
    "push_to_hub": (False, "tune publishes nothing while it trains"),
}
"""Managed keys whose value for the Trainer differs from the recipe's: key -> (value, why)."""

DEFAULT_KEEP = 2
"""Checkpoints kept at least, next to the best one: the newest may be damaged."""
DEFAULT_MAX_LOSS_MINUTES = 10
DEFAULT_MAX_OVERHEAD = 0.01
WATCHED: dict[str, Any] = {
    "early_stopping_patience": None,
    "early_stopping_threshold": 0.0,
    "non_finite_steps": 3,
    "loss_spike": 3.0,
    "rehearse": "auto",
    "hang_minutes": 30,
}
"""What `plan.monitor` holds where the recipe says nothing."""
EXPORT: dict[str, Any] = {
    "adapter": False,
    "merge": False,
    "gguf": [],
    "gguf_adapter": False,
    "ollama": False,
    "vllm": False,
    "push": None,
    "private": True,
    "prove": True,
    "system": None,
    "checkpoint": "handed-over",
}
"""What `export` means where the recipe says nothing: no output."""
DATA: dict[str, Any] = {
    "train": None,
    "eval": None,
    "sample": None,
    "format": "auto",
    "columns": None,
    "transcript": {"speaker": None, "turns": 8, "stride": None},
    "split_seed": 42,
    "group_by": None,
    "stratify_by": None,
    "max_samples": None,
    "max_bad_rows": 0.0,
    "dedupe": "exact",
    "near_duplicates": 0.85,
    "leakage": "drop",
    "min_tokens": None,
    "max_tokens": None,
    "truncation": None,
    "chat_template": None,
}
"""The recipe's `data` where it says nothing; in the plan `split_seed` is called `seed`."""


def training_kwargs(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """`(keyword arguments of SFTConfig, why)`; `output_dir` is added by the engine, which knows the run directory."""
    written = dict(values.get("training") or {})
    out = {k: v for k, v in written.items() if k not in TRAINER_GETS}
    why = {}
    for key, (value, reason) in TRAINER_GETS.items():
        out[key] = value
        if written.get(key, value) != value:
            why[f"SFTConfig.{key}"] = f"managed: the recipe's {written[key]!r} is done by tune; {reason}"
        else:
            why[f"SFTConfig.{key}"] = f"managed: {reason}"
    for key in ("truncation_mode", "eval_packing"):
        out.pop(key, None)
    if out.get("packing"):
        out["eval_packing"] = False
        why["SFTConfig.eval_packing"] = "managed: evaluation stays unpacked, so that its loss can be compared"
    if out.get("padding_free") and not out.get("packing") and out.get("max_length") is not None:
        out["max_length"] = None
        why["SFTConfig.max_length"] = (
            f"derived: tune keeps rows to training.max_length {written['max_length']} itself, before TRL sees them; TRL "
            "takes no length together with padding_free"
        )
    return out, why


def truncation(values: dict[str, Any]) -> tuple[str, str]:
    """`(data.truncation, why)` where the recipe leaves it open: as upstream's own options would have it."""
    training = values.get("training") or {}
    if training.get("packing") and training.get("packing_strategy") == "bfd_split":
        return "split", "training.packing_strategy bfd_split splits long rows"
    if training.get("truncation_mode") == "keep_end":
        return "left", "training.truncation_mode keep_end keeps the end"
    return "right", "long rows keep their beginning, as in TRL"


def data_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Which rows are trained on and how they are prepared, every key given; see `Plan.data`."""
    own = {k: v for k, v in (values.get("data") or {}).items() if v is not None}
    out: dict[str, Any] = {**DATA, **own, "transcript": {**DATA["transcript"], **(own.get("transcript") or {})}}
    out["truncation"] = out["truncation"] or truncation(values)[0]
    out["seed"] = out.pop("split_seed")
    return copy.deepcopy(out)


def model_kwargs(values: dict[str, Any]) -> dict[str, Any]:
    """What is loaded and how: `init` holds the keyword arguments of `from_pretrained`."""
    model = values.get("model") or {}
    init: dict[str, Any] = {"dtype": model.get("dtype"), "attn_implementation": model.get("attn_implementation")}
    if model.get("use_kernels"):
        init["use_kernels"] = True
    return {
        "name_or_path": model.get("name_or_path"),
        "revision": model.get("revision"),
        "trust_remote_code": bool(model.get("trust_remote_code")),
        "init": init,
    }


def checkpoint_settings(values: dict[str, Any]) -> dict[str, Any]:
    """How checkpoints are made and kept; see `Plan.checkpoint`. Without the section nothing is saved by time."""
    training, own = values.get("training") or {}, values.get("checkpoint") or {}
    minutes = None if values.get("checkpoint", {}) is None else DEFAULT_MAX_LOSS_MINUTES
    deadline = own.get("deadline")
    metric = training.get("metric_for_best_model") or "eval_loss"
    greater = training.get("greater_is_better")
    return {
        "best": bool(training.get("load_best_model_at_end")),
        "metric": metric if str(metric).startswith("eval_") else f"eval_{metric}",
        "greater_is_better": bool(greater) if greater is not None else not str(metric).endswith("loss"),
        "keep": max(DEFAULT_KEEP, int(training.get("save_total_limit") or own.get("keep") or DEFAULT_KEEP)),
        "max_loss_minutes": own.get("max_loss_minutes", minutes),
        "max_overhead": own.get("max_overhead", DEFAULT_MAX_OVERHEAD),
        "deadline_s": None if deadline is None else duration.seconds(deadline),
        "on_commit": own.get("on_commit"),
    }


def monitor_settings(values: dict[str, Any]) -> dict[str, Any]:
    """What is watched; see `Plan.monitor`. Without the section only a loss that is not finite ends a run."""
    own = values.get("monitor", {})
    if own is None:
        return {**WATCHED, "loss_spike": None, "rehearse": False, "hang_minutes": None}
    return {**WATCHED, **own}
