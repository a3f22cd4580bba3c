"""The job `simulate`: peak GPU memory of a training step, from running one on tensors that only pretend to exist.

The real model, PEFT, loss, checkpointing and optimizer run on fake tensors: shapes and types, no memory, no arithmetic. Every
allocation is counted. Where CUDA allocates otherwise than a CPU, `kernels` steps in.

in:  {"plan": {...}, "config": {config.json} | null, "rows": 8, "length": 1024, "loss": "installed" | "full" | "plain",
      "supervised": 1.0, "padded": false}
out: {"type": "progress", "what": "building the model"} ... {"type": "simulation", "terms": {...}, "peak": bytes, "rows", "length",
      "seconds", "notes": [...]} or {"type": "error", ...}
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from nothing_tune.engine.job import Send, answer
from nothing_tune.engine.worker import goes_offline, with_environment
from nothing_tune.errors import PlanError, Problem
from nothing_tune.plan.model import Plan

Tell = Callable[[str], None]


def main(lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Answers the one line of `lines` (stdin) on `out` (stdout); returns the exit code."""
    return answer(_answer, lines, out)


def _answer(request: dict[str, Any], send: Send) -> None:
    send(type="progress", what="loading the libraries")
    found = simulate(request, lambda what: send(type="progress", what=what))
    send(type="simulation", **found)


def simulate(request: Mapping[str, Any], tell: Tell = lambda _: None) -> dict[str, Any]:
    """Runs the step that `request` (see above) names, and counts.

    Returns:
        `terms` (bytes by kind at the peak), `peak` (their sum, what `torch.cuda.max_memory_allocated` would say without cuBLAS'
        workspaces), `rows`, `length`, `seconds`, and `notes` on what is not in it.

    Raises:
        UsageError: The model is not known or cannot be had; the adapter's targets are not in it.
        PlanError: The plan cannot train, or by a way that is not simulated.
    """
    began = time.monotonic()
    plan = Plan.from_json(with_environment(dict(request["plan"])))
    goes_offline(plan)
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from nothing_tune.engine.simulate import kernels, model, step
    from nothing_tune.engine.simulate.ledger import KINDS, Ledger

    args = arguments(plan)
    batch = step.Batch(
        rows=int(request["rows"]),
        length=int(request["length"]),
        supervised=float(request.get("supervised") or 1.0),
        padded=bool(request.get("padded")),
        flat=bool(args.padding_free or (args.packing and args.packing_strategy in ("bfd", "bfd_split"))),
        loss=str(request.get("loss") or "installed"),
    )
    config, beside = model.config_of(plan, request.get("config"))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    cuda = kernels.card(plan.gpu).cuda
    by_width = batch.loss != "installed" or not cuda  # else the fused head itself says what logits are
    ledger = Ledger(int(config.get_text_config().vocab_size) if by_width else 0, cuda)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tell("building the model")
        built = model.base(plan, config, mode)
        with mode:
            tell("running a step")
            tower = torch.empty(beside, dtype=torch.uint8)  # of a model that sees, which a text does not run
            ledger.own(tower, "weights")
            train(plan, args, built, batch, ledger)
    return {
        "terms": {kind: ledger.at_peak[kind] for kind in KINDS},
        "peak": ledger.peak,
        "rows": batch.rows,
        "length": batch.length,
        "seconds": round(time.monotonic() - began, 2),
        "notes": notes(plan, config, beside),
    }


def train(plan: Plan, args: Any, base: Any, batch: Any, ledger: Any) -> None:
    """Wraps `base` as the trainer does and runs the step that counts; its storages are told to `ledger`.

    On fake tensors it goes the ways of the plan's GPU; called on real ones, with a plan for a CPU, it trains.
    """
    from nothing_tune.engine.simulate import kernels, model, optimizers, step

    if batch.loss == "plain" and getattr(base, "is_quantized", False):
        from peft import prepare_model_for_kbit_training

        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    whole = model.wrapped(plan, base, args)
    step.fuse_head(whole)
    for kind, tensors in model.parameter_bytes(whole).items():
        for tensor in tensors:
            ledger.own(tensor, kind)
    optimizer = optimizers.optimizer(args, whole, foreach=kernels.card(plan.gpu).cuda)
    with step.as_on(kernels.card(plan.gpu), whole, batch, model.flash_package(plan), ledger):
        step.run(whole, optimizer, args, batch, ledger, mixed(plan), plan.world_size)


def arguments(plan: Plan) -> Any:
    """SFTConfig of the plan with every default filled, made so that this machine's abilities do not matter.

    Raises:
        PlanError: The plan trains by a way that is not simulated.
    """
    from nothing_tune.engine import build

    for key in ("deepspeed", "fsdp", "activation_offloading", "torch_compile"):
        if plan.training.get(key):
            raise PlanError(
                Problem(f"training with {key} is not simulated", key=f"training.{key}", hint="plan without --simulate")
            )
    here = {"bf16": False, "fp16": False, "tf32": None, "use_cpu": True, "report_to": "none"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build.sft_config(replace(plan, training={**plan.training, **here}), Path(folder))


def mixed(plan: Plan) -> Any:
    """The type of mixed precision that the plan trains in; None for none. SFTConfig means bf16 where nothing is said."""
    import torch

    if plan.training.get("fp16"):
        return torch.float16
    return torch.bfloat16 if plan.training.get("bf16", True) else None


def notes(plan: Plan, config: Any, beside: int) -> list[str]:
    """What the number holds or leaves out beyond a plain step, one sentence each; `beside` as `model.config_of` gives it."""
    said = []
    if beside:
        said.append(f"{beside / 1e9:.1f} GB of weights that only pictures or sound use are counted, and not quantised")
    kinds = " ".join(map(str, getattr(config.get_text_config(), "layer_types", None) or [config.model_type]))
    if "linear_attention" in kinds or "mamba" in kinds:
        said.append("recurrent layers are counted as without their fused kernels, which need less")
    if str(plan.training.get("optim") or "").startswith("paged"):
        said.append("paged optimizer states are left out: CUDA moves them to the host when room is short")
    if plan.training.get("use_liger_kernel") or (plan.model.get("init") or {}).get("use_kernels"):
        said.append("fused layer kernels are left out: they need less than what is counted")
    return said
