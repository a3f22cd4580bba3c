"""Rules between fields of training, data and monitoring; see `rules.py`."""

from __future__ import annotations

from collections.abc import Iterator

from nothing_tune.errors import Problem
from nothing_tune.recipe.view import View

BEST = "training.load_best_model_at_end"


def best_needs_evaluation(view: View) -> Iterator[Problem]:
    """The best checkpoint is known by its metric alone: without evaluation there is none."""
    if view.get(BEST) and view.get("training.eval_strategy", "no") == "no":
        yield view.problem(
            view.latest(BEST, "training.eval_strategy"),
            f"{BEST} needs evaluation, and training.eval_strategy is no",
            "write eval_strategy: steps, or load_best_model_at_end: false",
        )


def evaluation_needs_data(view: View) -> Iterator[Problem]:
    """Evaluation is on and there are no rows to evaluate on."""
    strategy = view.get("training.eval_strategy", "no")
    if not view.get("data.train") and "${data.sample" in str(getattr(view.origins.get("data.train"), "value", "")):
        return  # one cause, one message: `rehearsal_needs_a_sample`
    if strategy != "no" and not view.evaluates and "data" in view.values:
        yield view.problem(
            view.latest("data.eval", "training.eval_strategy"),
            f"training.eval_strategy is {strategy}, and data.eval gives no rows to evaluate on",
            "write data.eval: 0.1, or eval_strategy: no and load_best_model_at_end: false",
        )


def rehearsal_needs_a_sample(view: View) -> Iterator[Problem]:
    """`--with models/nano` trains on the recipe's sample, which a recipe of one's own may not have."""
    origin = view.origins.get("data.train")
    if (
        origin
        and not view.get("data.train")
        and "${data.sample" in str(origin.value)
        and not view.get("data.sample.train")
    ):
        yield view.problem(
            "data.train",
            f"{origin.layer} trains on the recipe's data.sample, and this recipe has none",
            "write data.sample: {train: FILE, eval: FILE} in it, or add data.train=FILE data.eval=0.1",
        )


def evaluation_share(view: View) -> Iterator[Problem]:
    """A number in data.eval is the share of rows that is held out: something must be left to train on."""
    share = view.number("data.eval")
    if share is not None and not 0 <= share < 1:
        percent = f"; {share:g} % is {share / 100:g}" if 1 <= share < 100 else ""
        yield view.problem(
            "data.eval",
            f"data.eval must be a share from 0 to below 1, not {share:g}",
            f"0.1 holds out a tenth{percent}",
        )


def steps_are_given(view: View) -> Iterator[Problem]:
    """Upstream falls back to logging_steps without a word."""
    if view.get("training.eval_strategy") == "steps" and view.number("training.eval_steps") is None:
        yield view.problem(
            "training.eval_strategy", "training.eval_strategy is steps, and training.eval_steps is not set"
        )


def steps_are_whole(view: View) -> Iterator[Problem]:
    """Below 1 a share of all steps, from 1 on a whole number (transformers training_args.py)."""
    for name in ("eval_steps", "save_steps", "logging_steps", "warmup_steps"):
        key = f"training.{name}"
        value = view.number(key)
        if value is not None and value > 1 and value != int(value):
            yield view.problem(key, f"{key} is {value:g}: from 1 on it counts whole steps", f"write {round(value)}")


def max_steps_counts(view: View) -> Iterator[Problem]:
    """Upstream takes any value below 1 as "not set", so that 0 would train all epochs."""
    if view.number("training.max_steps") == 0:
        yield view.problem(
            "training.max_steps",
            "training.max_steps is 0",
            "-1 leaves the length to num_train_epochs; 1 is the shortest run",
        )


def warmup_ends(view: View) -> Iterator[Problem]:
    """A warmup as long as the run never reaches the learning rate."""
    warmup, steps = view.number("training.warmup_steps"), view.number("training.max_steps")
    if warmup is not None and steps is not None and steps > 0 and warmup >= max(steps, 1):
        yield view.problem(
            view.latest("training.warmup_steps", "training.max_steps"),
            f"training.warmup_steps is {warmup:g}, and the run ends after {steps:g} steps",
            "below 1 it is a share of all steps, such as 0.03",
        )


def early_stopping_needs_evaluation(view: View) -> Iterator[Problem]:
    """Patience counts evaluations."""
    key = "monitor.early_stopping_patience"
    if view.number(key) is not None and view.get("training.eval_strategy", "no") == "no":
        yield view.problem(
            key, f"{key} counts evaluations, and training.eval_strategy is no", "write eval_strategy: steps"
        )


def evaluation_on_start_needs_evaluation(view: View) -> Iterator[Problem]:
    """ "Trainer: evaluation requires an eval_dataset" (transformers trainer.py): none is made where evaluation is off."""
    key = "training.eval_on_start"
    if view.get(key) and view.get("training.eval_strategy", "no") == "no":
        yield view.problem(
            view.latest(key, "training.eval_strategy"),
            f"{key} evaluates, and training.eval_strategy is no",
            "write eval_on_start: false, or eval_strategy: steps",
        )


def scheduler_needs_evaluation(view: View) -> Iterator[Problem]:
    """ "lr_scheduler_type reduce_lr_on_plateau requires an eval strategy" (transformers training_args.py)."""
    kind = view.get("training.lr_scheduler_type")
    if kind in ("reduce_lr_on_plateau", "greedy") and view.get("training.eval_strategy", "no") == "no":
        yield view.problem(
            "training.lr_scheduler_type",
            f"{kind} follows the metric, and training.eval_strategy is no",
            "write eval_strategy: steps",
        )


def scheduler_arguments(view: View) -> Iterator[Problem]:
    """These schedulers raise without their argument (transformers optimization.py)."""
    kind, given = view.get("training.lr_scheduler_type"), view.get("training.lr_scheduler_kwargs", {})
    needed = {
        "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
        "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
        "warmup_stable_decay": ("num_decay_steps",),
    }.get(str(kind), ())
    if needed and isinstance(given, dict) and not set(needed) & set(given):
        yield view.problem(
            "training.lr_scheduler_type",
            f"{kind} needs {' or '.join(needed)} in training.lr_scheduler_kwargs",
            f"write lr_scheduler_kwargs: {{{needed[-1]}: {'0.1' if 'min_lr' in needed[0] else '100'}}}",
        )


def save_best_needs_evaluation(view: View) -> Iterator[Problem]:
    """save_strategy best saves when the metric improves."""
    if view.get("training.save_strategy") == "best" and view.get("training.eval_strategy", "no") == "no":
        yield view.problem(
            "training.save_strategy",
            "training.save_strategy is best, and training.eval_strategy is no",
            "write eval_strategy: steps",
        )


def packing_keeps_rows_apart(view: View) -> Iterator[Problem]:
    """`wrapped` lets rows attend to each other (measured: losses differ by 0.25); packing needs a length to fill."""
    if view.get("training.packing_strategy") == "wrapped":
        yield view.problem(
            "training.packing_strategy",
            "training.packing_strategy wrapped mixes rows with each other",
            "write bfd or bfd_split",
        )
    if view.get("training.packing") and view.null("training.max_length"):
        yield view.problem(
            "training.max_length",
            "training.packing fills rows up to max_length, which is null",
            "write max_length: 1024",
        )
    if view.get("training.packing") and view.get("training.train_sampling_strategy") == "group_by_length":
        yield view.problem(
            "training.train_sampling_strategy",
            "packed rows are equally long: grouping them by length does nothing",
            "",
            "advice",
        )


def workers_are_there(view: View) -> Iterator[Problem]:
    """The data loader raises on these without worker processes (transformers and torch)."""
    if view.number("training.dataloader_num_workers") == 0:
        for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
            if view.get(f"training.{name}"):
                yield view.problem(
                    f"training.{name}",
                    f"training.{name} needs dataloader_num_workers above 0",
                    "write dataloader_num_workers: 2",
                )


def old_name_is_not_overruled(view: View) -> Iterator[Problem]:
    """Upstream ignores the old name without a word where the new one is set (transformers training_args.py)."""
    for name in ("checkpointing", "checkpointing_kwargs"):
        old, new = f"training.gradient_{name}", f"training.activation_{name}"
        given, wins = view.get(old), view.get(new)
        if given is None:
            continue
        if wins is not None and given != wins:
            told = str(given).lower() if isinstance(given, bool) else "..."
            yield view.problem(
                old,
                f"{old} is overruled by {new}, its new name, which says otherwise",
                f"write activation_{name}: {told}",
            )
        else:
            yield view.problem(old, f"{old} is deprecated", f"its new name is activation_{name}", "advice")


def deprecated(view: View) -> Iterator[Problem]:
    """Still accepted by TRL 1.16, gone in 2.0."""
    if view.get("training.use_liger_kernel"):
        yield view.problem(
            "training.use_liger_kernel",
            "training.use_liger_kernel is deprecated",
            "write model.use_kernels: true",
            "advice",
        )
    if (view.get("training.liger_kernel_config") or {}).get("fused_linear_cross_entropy"):
        yield view.problem(
            "training.liger_kernel_config",
            "fused_linear_cross_entropy does not go with TRL's own fused head",
            "remove it",
        )
    if view.get("training.loss_type") == "chunked_nll":
        yield view.problem(
            "training.loss_type", "training.loss_type chunked_nll is deprecated", "write nll: it is the same", "advice"
        )


def one_voice_on_tracking(view: View) -> Iterator[Problem]:
    """report_to is managed: a value that tracking.tracker contradicts would be ignored."""
    given, tracker = view.get("training.report_to"), view.get("tracking.tracker", "none")
    names = given if isinstance(given, list) else [given]
    if given is not None and names not in (["none"], [], [tracker]):
        told = ", ".join(str(n) for n in names)
        known = next((n for n in names if n in ("wandb", "tensorboard")), None)
        yield view.problem(
            "training.report_to",
            f"training.report_to is {told}, and tracking.tracker is {tracker}, which decides",
            f"write tracking.tracker: {known}"
            if known
            else "remove the line; trackers are none, tensorboard and wandb",
        )


def one_voice_on_keeping(view: View) -> Iterator[Problem]:
    """Both say how many checkpoints stay."""
    limit, keep = view.number("training.save_total_limit"), view.number("checkpoint.keep")
    if limit is not None and keep is not None and limit != keep:
        key = view.latest("training.save_total_limit", "checkpoint.keep")
        yield view.problem(
            key, f"training.save_total_limit is {limit:g} and checkpoint.keep {keep:g}", "write one of the two"
        )


RULES = (
    best_needs_evaluation,
    evaluation_needs_data,
    rehearsal_needs_a_sample,
    evaluation_share,
    steps_are_given,
    steps_are_whole,
    max_steps_counts,
    warmup_ends,
    early_stopping_needs_evaluation,
    evaluation_on_start_needs_evaluation,
    scheduler_needs_evaluation,
    scheduler_arguments,
    save_best_needs_evaluation,
    packing_keeps_rows_apart,
    workers_are_there,
    old_name_is_not_overruled,
    deprecated,
    one_voice_on_tracking,
    one_voice_on_keeping,
)
"""Rules of this file, in the order in which problems are shown."""
