"""Compiles a recipe's values into the keyword arguments that the engine builds its objects from."""

from __future__ import annotations

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
    if out.get("packing") and out.get("eval_packing") is None:
        out["eval_packing"] = False
        why["SFTConfig.eval_packing"] = "derived: evaluation stays unpacked, so that its loss can be compared"
    return out, why


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
