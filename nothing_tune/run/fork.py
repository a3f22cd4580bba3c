"""Makes a child run that starts from a checkpoint of another run, with other settings. The parent stays as it is.

Which settings change decides how the child begins:

    continue   the checkpoint goes along whole: step count, optimizer, schedule, random state, position in the data
    restart    only its weights go along, into `initial/`: a new count from step 0 with a new optimizer, because another
               order of rows, another batch or another optimizer has no use for the old position and state

Settings that make other weights of the checkpoint's are refused. lock.json of the child records all of it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, checkpoint, create_run, new_run_id, read_json, write_json
from nothing_tune.errors import Problem, ResumeRefused, StorageError, UsageError
from nothing_tune.plan import Plan, drift, make_plan
from nothing_tune.plan.model import PLAN_VERSION
from nothing_tune.recipe import library, load_recipe
from nothing_tune.recipe.model import lookup
from nothing_tune.run import pins
from nothing_tune.run.missing import missing, named
from nothing_tune.run.prepare import lock
from nothing_tune.run.resume import differences, fingerprint, write_recipe

CONTINUES = (
    "monitor.", "checkpoint.", "tracking.", "export.", "launch.", "model.attn_implementation", "model.use_kernels",
    "model.trust_remote_code", "training.learning_rate", "training.lr_scheduler_type", "training.lr_scheduler_kwargs",
    "training.warmup_", "training.weight_decay", "training.adam_", "training.max_grad_norm", "training.label_smoothing_factor",
    "training.neftune_noise_alpha", "training.num_train_epochs", "training.max_steps", "training.eval_", "training.logging_",
    "training.save_", "training.load_best_model_at_end", "training.metric_for_best_model", "training.greater_is_better",
    "training.per_device_eval_batch_size", "training.activation_checkpointing", "training.gradient_checkpointing",
    "training.dataloader_num_workers",
    "training.dataloader_pin_memory", "training.dataloader_prefetch_factor", "training.dataloader_persistent_workers",
    "training.torch_compile", "training.use_liger_kernel", "training.report_to", "training.run_name", "training.ddp_",
    "training.include_", "training.torch_empty_cache_steps", "training.skip_memory_metrics",
)  # fmt: skip
"""Keys (or their beginnings) after whose change the optimizer's state and the position in the data still hold."""
OTHER_WEIGHTS = ("model.", "peft.")
"""Keys (or their beginnings) after whose change the weights of a checkpoint do not fit, or mean something else."""
ANEW = ("model.dtype", "model.chat_template", "model.padding_side")
"""Keys of `model` after whose change only the weights hold."""
PLAIN_STARTS = (None, True, False, "true", "false", "gaussian", "orthogonal")
"""Values of `peft.init_lora_weights` whose adapter does not depend on how the base is stored."""
START = "start.safetensors"
"""What PiSSA and OLoRA adapters started from: it belongs to the run's weights."""
BATCH = (
    "training.per_device_train_batch_size", "training.gradient_accumulation_steps", "training.max_length", "training.packing",
    "training.activation_checkpointing", "training.gradient_checkpointing", "launch.processes",
)  # fmt: skip
"""Keys after whose change the parent's answers to out-of-memory errors are not taken along."""


@dataclass(frozen=True)
class Fork:
    """A child run that was made.

    Attributes:
        run: The child.
        parent: The parent's id.
        step: Step of the parent's checkpoint that it starts from.
        mode: `continue` or `restart`.
        changed: Key -> the parent's value and the child's.
        because: Keys that make it a restart; empty for `continue`, and where it was asked for.
    """

    run: Run
    parent: str
    step: int
    mode: str
    changed: dict[str, tuple[Any, Any]]
    because: tuple[str, ...]

    def line(self) -> str:
        """What the child is, in one line."""
        head = f"{self.run.id} is a fork of {self.parent} at step {self.step}"
        if self.mode == "continue":
            return f"{head}: it goes on from there with the same optimizer state and position in the data"
        why = f" because of {', '.join(self.because)}" if self.because else ""
        return f"{head}: it starts a new count at step 0 with those weights and a new optimizer{why}"


def fork(
    parent: Run,
    root: Path,
    overrides: Sequence[str] = (),
    *,
    start: str | int | None = None,
    name: str | None = None,
    restart: bool = False,
    waits: bool = False,
) -> Fork:
    """Makes a child of `parent` in `root`, with `overrides` of its recipe.

    Args:
        start: Step of the checkpoint to start from, or `best`; None is the newest complete one.
        name: The child's id; None makes one from date, recipe and GPU.
        restart: Start a new count even where the settings would let it go on.
        waits: The child is not started now: it is shown as stopped.

    Raises:
        UsageError: There is no such checkpoint, an override is wrong, the child would have nothing to train, this
            machine lacks something that the child needs, or the name is taken.
        ResumeRefused: The weights do not fit the changed settings.
        StorageError: The checkpoint is damaged, or the disk refuses.
    """
    recipe = load_recipe(parent.path / "recipe.yaml", overrides=list(overrides))
    plan = make_plan(recipe)
    after = drift.flat(json.loads(json.dumps(plan.values)))
    found = differences(parent, plan)
    version, split_anew = _rows_of_old(parent, plan)
    refused = refusals(parent, found, after)
    if refused:
        raise ResumeRefused(*refused)
    step = pins.complete(parent, chosen(parent, start))
    source = parent.checkpoints / f"checkpoint-{step}"
    because = (*(c.key for c in found if starts_anew(c)), *_other_rows(parent, plan), *split_anew)
    mode = "restart" if restart or because else "continue"
    if mode == "continue":
        _refuse_nothing_left(parent, source, plan)
        plan = plan.of_version(version)
    problems = missing(recipe, plan)
    if problems:
        raise UsageError(*problems)

    changed = {c.key: (c.before, c.after) for c in found}
    forked = {"run": parent.id, "step": step, "changed": {k: list(v) for k, v in changed.items()}}
    run = create_run(root, name or new_run_id(plan.name, str(plan.gpu.get("name", "cpu"))))
    try:
        record = {"run": parent.id, "step": step, "mode": mode, "changed": forked["changed"]}
        write_json(run.path / "lock.json", {**lock(recipe, plan), "parent": record})
        if mode == "continue":
            checkpoint.adopt(source, run.checkpoints / source.name, run=run.id, settings=after, forked=forked)
        else:
            _take_weights(source, run, after, forked)
        if (parent.path / START).is_file():
            _copy(parent.path / START, run.path / START)
        if not any(c.key in BATCH for c in found) and (parent.path / "adjustments.json").is_file():
            _copy(parent.path / "adjustments.json", run.path / "adjustments.json", link=False)
        status: dict[str, Any] = {"recipe": plan.name, "gpu": plan.gpu.get("name"), "created": time.time()}
        status |= {"step": step} if mode == "continue" else {}
        write_json(run.path / "status.json", {"state": "stopped" if waits else "starting", **status})
        write_recipe(run, recipe, plan)  # last: what has no plan.json is no run yet
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return Fork(run, parent.id, step, mode, changed, because)


def starts_anew(change: drift.Change) -> bool:
    """Whether `change` leaves no use for the optimizer's state and the position in the data of a checkpoint."""
    if change.kind == "free" or change.key.startswith(CONTINUES):
        return False
    return not _dropout(change.key)


def refusals(parent: Run, found: Sequence[drift.Change], after: dict[str, Any]) -> list[Problem]:
    """One problem for each change after which the weights of the parent's checkpoints do not fit."""
    out = []
    based = after.get("peft.init_lora_weights") not in PLAIN_STARTS
    again = library.shown(parent.path / "recipe.yaml")
    for change in found:
        if change.kind == "free" or change.key.startswith((*CONTINUES, *ANEW)) or _dropout(change.key):
            continue
        if change.key.startswith(OTHER_WEIGHTS) or change.key in ("model", "peft"):
            why = "the weights of a checkpoint do not fit that"
        elif based and change.key.startswith("quantization"):
            why = "an adapter of that kind fits only the base as it was stored"
        else:
            continue
        out.append(
            Problem(
                f"{change.key} was {drift.shown(change.before)} and would be {drift.shown(change.after)}: {why}",
                change.key,
                hint=f"start a new run: tune train {again} KEY=VALUE",
            )
        )
    return out


def chosen(parent: Run, start: str | int | None) -> int | None:
    """The step that `start` means: a step, `best`, or None for the newest. `UsageError` where it is neither, or none is best."""
    if start is None or isinstance(start, int):
        return start
    if start.isdecimal():
        return int(start)
    if start != "best":
        raise UsageError(f"{start!r} is no step of a checkpoint", hint=f"give a step or best; {pins.there(parent)}")
    step = best_step(parent)
    if step is None:
        raise UsageError(f"run {parent.id} has no best checkpoint: it has not evaluated", hint=pins.there(parent))
    return step


def best_step(run: Run) -> int | None:
    """Step of the best checkpoint so far, as status.json or the events tell; None without evaluations."""
    told = [run.status().get("best_step"), (run.last_event("best") or {}).get("step")]
    told += [e.get("step") for e, _ in run.events() if e.get("type") == "checkpoint" and e.get("best")][-1:]
    return next((int(step) for step in told if isinstance(step, int)), None)


def _dropout(key: str) -> bool:
    """`peft.lora_dropout` and its like in other methods: they touch the training, not the weights."""
    return key.startswith("peft.") and "dropout" in key.rsplit(".", 1)[-1]


def _refuse_nothing_left(parent: Run, source: Path, plan: Plan) -> None:
    """`UsageError` where a child that goes on would be at its end at once."""
    state = read_json(source / "trainer_state.json") or {}
    step, epoch = int(source.name.rsplit("-", 1)[1]), state.get("epoch")
    steps, epochs = int(plan.training.get("max_steps") or 0), plan.training.get("num_train_epochs", 3)
    if 0 < steps <= step:
        what, key = f"training.max_steps is {steps}, and the checkpoint is at step {step}", "training.max_steps"
    elif steps <= 0 and isinstance(epoch, int | float) and epoch >= epochs:
        what = f"training.num_train_epochs is {epochs:g}, and the checkpoint is at the end of epoch {epoch:g}"
        key = "training.num_train_epochs"
    else:
        return
    before = lookup(parent.plan()["values"], key)
    hint = f"give more with {key}=N, an earlier checkpoint with --from, or start a new count with --restart"
    raise UsageError(Problem(f"nothing is left to train: {what}", key if before else "", hint=hint))


def _other_rows(parent: Run, plan: Plan) -> list[str]:
    """What of the data lies where it lay, but is not what the parent was started with: `the rows of FILE`."""
    known = (read_json(parent.path / "lock.json") or {}).get("data") or {}
    entries = [s.name for key in drift.BY_CONTENT for s in named(plan, key.removeprefix("data."))]
    return [f"the rows of {library.shown(Path(s))}" for s in entries if s in known and known[s] != fingerprint(s)]


def _rows_of_old(parent: Run, plan: Plan) -> tuple[int, list[str]]:
    """`(version of the parent's plan, what makes a child start anew because of it)`: shares are held out otherwise since then."""
    version = int(parent.plan().get("version", 1))
    evaluates = (plan.training.get("eval_strategy") or "no") != "no"
    shared = isinstance(plan.data.get("eval"), int | float) and evaluates
    return version, ["how rows are held out, which changed"] if version < PLAN_VERSION and shared else []


def _take_weights(source: Path, run: Run, settings: dict[str, Any], forked: dict[str, Any]) -> None:
    """Fills `initial/` with the weights of a complete checkpoint, and all that belongs to them."""
    manifest, target = checkpoint.read(source), run.path / "initial"
    for file in manifest["files"]:
        if not checkpoint.is_progress(file):
            _copy(source / file, target / file)
    checkpoint.commit(target, step=0, attempt=0, run=run.id, settings=settings, forked=forked)


def _copy(source: Path, target: Path, *, link: bool = True) -> None:
    """Copies a file that is never written again, by a hard link where the disk has them."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not link:
                raise OSError
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    except OSError as error:
        raise StorageError(f"cannot copy {source.name}: {error.strerror}", hint="free some space") from error
