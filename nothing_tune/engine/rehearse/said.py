"""What the stages of a rehearsal say they proved, and what none of them can. Pure."""

from __future__ import annotations

from typing import Any

from nothing_tune.plan.model import Plan


def of_data(found: dict[str, Any]) -> str:
    """The rows that were looked at."""
    rows = f"{found['rows']:,} training rows" + (
        f", {found['eval_rows']:,} to evaluate on" if found["eval_rows"] else ""
    )
    looked = "all looked at" if found["whole"] else "chosen from those that could be read in time"
    cut = f", {found['cut']:,} cut" if found["cut"] else ""
    template = "" if found["template"] == "none needed" else f"; template: {found['template']}"
    return f"{rows}, {looked}{cut}; format {found['format']}{template}"


def of_full_size(full: dict[str, Any], plan: Plan) -> str:
    """What trains of the model at full size."""
    size = f"{full['class']}, {full['layers']} layers, {full['parameters'] / 1e6:,.0f} M parameters"
    if not plan.peft:
        return f"{size}; all of them train"
    kind = str(plan.peft.get("peft_type", "")).upper()
    if full["trainable"] is None:
        return f"{size}; {kind} tells its part only on real weights"
    return f"{kind} takes {full['modules']} modules of {size}; {full['trainable']:,} train"


def of_model(made: dict[str, Any]) -> str:
    """How the model was made small."""
    if "bytes" in made:
        return f"{made['class']} is small: rehearsed as it is, with its own weights"
    return (
        f"{made['class']} made small: {made['depth']} -> {len(made['layers'])} layers, {made['before']:,} -> {made['hidden']} wide, "
        f"all {made['vocabulary']:,} tokens, random weights"
    )


def of_start(plan: Plan, start: dict[str, Any]) -> str:
    """What the trainer was built of, from the run's event `start`."""
    quantization = plan.quantization or {}
    how = quantization.get("bnb_4bit_quant_type", "4 bit") if quantization.get("load_in_4bit") else "int8"
    base = f"base in {how}" if quantization else f"base in {(plan.model.get('init') or {}).get('dtype')}"
    optim, curve = plan.training.get("optim") or "the default", plan.training.get("lr_scheduler_type") or "linear"
    packed = ", packing" if plan.training.get("packing") else ""
    return f"{base}, optimizer {optim}, {curve}{packed}; {start.get('trainable_parameters', 0):,} weights train"


def could_not(plan: Plan, made: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What a rehearsal says nothing about."""
    gpu = str(plan.gpu.get("name") or "the GPU")
    out = ["speed and cost", "what the model will learn"]
    if plan.gpu.get("kind") != "cpu":
        out = [f"memory and speed on {gpu}: tune plan tells", f"kernels and precision of {gpu}", out[1]]
    if "bytes" not in made:
        out.insert(0, "that the real weights load")
    if not found["whole"]:
        out.append("rows that were not read")
    if plan.world_size > 1:
        out.append(f"{plan.world_size} processes together")
    if str(plan.tracking.get("tracker") or "none") != "none":
        out.append(f"the tracker {plan.tracking['tracker']}: a rehearsal sends nothing")
    if plan.checkpoint.get("on_commit"):
        out.append("checkpoint.on_commit: it was not run, so that nothing is sent")
    return out
