"""What the losses of a run say: one small function each. Thresholds without a source are this file's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nothing_tune.recipe import library
from nothing_tune.run.doctor import cause
from nothing_tune.run.doctor.cause import ADVICE, FAIL, GPT, MARCO, STUDIO, WARN, Cause, Cures
from nothing_tune.run.doctor.cuts import cut_answers
from nothing_tune.run.doctor.numbers import Trend, finite, level, third, trend
from nothing_tune.run.doctor.record import Evaluation, Record

FEWEST = 12
"""Logged losses without which nothing is said of a slope: three thirds of four."""
FALLS = 0.02
"""Share by which the last third's losses must lie below the first third's to count as falling."""
RISES = 0.02
"""Share by which an evaluation must lie above the best one to count as risen: small evaluations move by 1 % by themselves."""
FLAT = 0.005
"""Share within which evaluations count as flat; Nothing-GPT's plateau at 2.5 moved by less."""
FLAT_COUNT = 2
"""Further evaluations that must be flat: "across 2+ eval checkpoints" (Nothing-GPT)."""
ALIVE = 0.5
"""Share of the highest learning rate above which flat evaluations mean something: near the end of a cosine all is flat."""
LOWEST = {"adapter": 5e-5, "full": 5e-6}
HIGHEST = {"adapter": 1e-3, "full": 1e-4}
"""Learning rates outside of which they are the likely cause: half the lowest and twice the highest of Marco's ranges (adapters
1e-4 to 5e-4, whole models 1e-5 to 5e-5)."""
GAP = 0.25
"""Share by which the evaluation lies above the training loss before it is called a gap."""
MANY_SPIKES = 3


def no_gradient(r: Record) -> Cause | None:
    """Every gradient is zero, or no row has anything to learn from."""
    norms = [log.grad_norm for log in r.logs if log.grad_norm is not None]
    start = (r.events.get("start") or [{}])[-1]
    if start.get("supervised_tokens") == 0:
        evidence: tuple[str, ...] = ("0 supervised tokens in the training rows",)
    elif len(norms) >= 3 and not any(norms):
        evidence = cause.said(f"all {len(norms)} logged gradient norms are 0", cause.losses(r))
    else:
        return None
    cures = (
        (f"tune data inspect {r.run.path / 'recipe.yaml'}", "shows which tokens are learned from"),
        (
            cause.again(r, "training.assistant_only_loss=false"),
            "learns from all tokens, where the template has no markers",
        ),
    )
    return Cause(
        "no-gradient",
        FAIL,
        "nothing is learned: there is no gradient",
        evidence,
        "no token of the rows is one to learn from, or the trained weights are not part of the loss",
        cures,
        STUDIO,
    )


def not_falling(r: Record) -> Cause | None:
    """The training loss does not fall over the whole run, or rises."""
    points, line = _after_warmup(r)
    if line is None or len(points) < FEWEST:
        return None
    values = [y for _, y in points]
    first, last = level(third(values, 0)), level(third(values, 2))
    share = (last - first) / abs(first) if first else 0.0
    if (share <= -FALLS and line.change < 0) or (line.t <= -3 and share <= -FALLS / 4):
        return None
    if _warmup(r) <= (r.total or 0) / 3 and r.logs[-1].step < 2 * _warmup(r):
        return None  # it has hardly begun
    rate, method, warm = cause.rate(r), "adapter" if r.plan.get("peft") else "full", _warmup(r)
    rising = line.t > 3 and share > FALLS
    evidence = cause.said(
        f"first third {first:.3f}, last third {last:.3f} ({share * 100:+.1f} %), noise {line.noise:.3f}, over {len(points)} logged losses",
        f"slope {line.slope * 100:+.4f} per 100 steps, {abs(line.t):.1f} standard errors" if math.isfinite(line.t) else "", cause.norms(r),
        f"learning rate {rate:g}, warmup {warm} of {r.total or '?'} steps" if rate is not None else "",
    )  # fmt: skip
    high = rate is not None and rate > HIGHEST[method]
    if rising or high:
        slower: Cures = (
            (cause.again(r, cause.halved(rate), restart=True), "half the learning rate"),
            (cause.again(r, f"training.warmup_steps={max(2 * warm, 50)}", restart=True), "more warmup"),
        )
        usual = f": adapters take 1e-4 to 5e-4, whole models 1e-5 to 5e-5, here it is {rate:g}" if high else ""
        why = f"the learning rate is too high{usual}"
        what = "the training loss rises" if rising else "the training loss does not fall"
        return Cause("loss-rises" if rising else "loss-flat", WARN, what, evidence, why, slower, f"{STUDIO}; {MARCO}")
    low = rate is not None and rate < LOWEST[method]
    total = r.total or (points[-1][0] if points else 0)
    faster = 2 * rate if rate else (2e-4 if method == "adapter" else 2e-5)
    if low:
        faster = 2e-4 if method == "adapter" else 2e-5
    cures = [(cause.again(r, f"training.learning_rate={faster:g}", restart=True), "a higher learning rate")]
    if warm > total / 3:
        cures.insert(
            0,
            (
                cause.again(r, f"training.warmup_steps={max(total // 20, 1)}"),
                f"less warmup: {warm} of {total} steps are",
            ),
        )
    cures += [
        (
            f"tune data inspect {r.run.path / 'recipe.yaml'}",
            "the rows as the model sees them: right labels, no duplicates, no empty answers",
        ),
        ("tune list methods", "another method, or a higher peft.r"),
    ]
    why = (
        "the learning rate is too low"
        if low
        else "a learning rate that is too low, a warmup that is too long, or data that cannot be learned"
    )
    return Cause(
        "loss-flat", WARN, "the training loss does not fall", evidence, why, tuple(cures), f"{STUDIO}; {MARCO}"
    )


def overfitting(r: Record) -> Cause | None:
    """Evaluations rise after the best one while the training loss falls on."""
    best, seen = r.best, [e for e in r.evaluations if e.step > 0]
    if best is None or len(seen) < 2 or best.step == seen[-1].step:
        return None
    after = [e for e in seen if e.step > best.step]
    last = after[-1]
    rise = (last.loss - best.loss) / abs(best.loss) if best.loss else 0.0
    if (
        rise < RISES
        or (len(after) < 2 and rise < 2 * RISES)
        or level([e.loss for e in after]) <= best.loss * (1 + FLAT)
    ):
        return None
    before_at = [log.loss for log in r.logs if log.loss is not None and log.step <= max(best.step, 1)]
    later = [log.loss for log in r.logs if log.loss is not None and log.step > best.step]
    fell = bool(before_at and later) and level(third(later, 2)) < level(before_at[-5:])
    if later and not fell:
        return Cause(
            "evaluation-rises", WARN,
            f"the evaluation gets worse since step {best.step}, and the training loss does not fall either",
            cause.said(_evals(r), cause.losses(r), cause.norms(r)),
            "the learning rate is too high from there on, or a part of the data differs",
            ((cause.again(r, cause.halved(cause.rate(r)), start="best"), "half the learning rate, from the best checkpoint"),), MARCO,
        )  # fmt: skip
    kept = best.step in r.saved or r.result.get("adapter")
    where = f"epoch {best.epoch:.2f}" if isinstance(best.epoch, int | float) else f"step {best.step}"
    epochs = max(math.ceil(best.epoch), 1) if isinstance(best.epoch, int | float) else 1
    evidence = cause.said(
        _evals(r), f"training loss {level(before_at[-5:]):.3f} there, {level(third(later, 2)):.3f} at the end" if fell else "",
        f"best {best.loss:.3f} at step {best.step}, {where}; now {last.loss:.3f} ({rise * 100:+.0f} %)",
    )  # fmt: skip
    cures = []
    if r.held:
        cures.append((f"tune stop {r.name}", "further steps make it worse; the best checkpoint is kept"))
    if r.state == "done" and r.result.get("adapter"):
        cures.append(
            (
                f"tune chat {r.name}",
                f"the run hands over the best checkpoint, that of step {best.step}"
                if _hands_best(r)
                else "tries what it hands over",
            )
        )
    if best.step in r.saved:
        cures.append((f"tune runs pin {r.name} {best.step}", "keeps the best checkpoint"))
    recipe = library.shown(r.run.path / "recipe.yaml")
    planned = r.training.get("num_train_epochs")
    if not isinstance(planned, int | float) or planned > epochs:
        cures.append((f"tune train {recipe} training.num_train_epochs={epochs}", "no longer than it gets better"))
    cures += [
        (f"tune train {recipe} monitor.early_stopping_patience=3", "stops by itself"),
        (f"tune train {recipe} peft.lora_dropout=0.1", "more dropout; or more data"),
    ]
    why = "the rows are learned by heart: a training loss below the evaluation is no progress" + (
        "" if kept else "; that checkpoint was not kept"
    )
    return Cause(
        "overfitting",
        WARN,
        f"it overfits since step {best.step} ({where})",
        evidence,
        why,
        tuple(cures),
        f"{GPT} (its best was at epoch 0.94 of 2); {MARCO}",
    )


def plateau(r: Record) -> Cause | None:
    """Evaluations that stay where they are while the learning rate is high."""
    seen = [e for e in r.evaluations if e.step > 0]
    if len(seen) < FLAT_COUNT + 1:
        return None
    start = len(seen) - 1
    while start > 0 and _near(seen[start - 1 :]):
        start -= 1
    flat = seen[start:]
    if len(flat) < FLAT_COUNT + 1 or not _near(flat):
        return None
    peak, there = max((x.learning_rate or 0.0 for x in r.logs), default=0.0), _rate_at(r, flat[FLAT_COUNT].step)
    if peak and there is not None and there < ALIVE * peak:
        return None
    p, value = r.plan.get("peft") or {}, level([e.loss for e in flat])
    rank, alpha, rate = p.get("r"), p.get("lora_alpha"), cause.rate(r)
    recipe = f"tune train {library.shown(r.run.path / 'recipe.yaml')}"
    cures = (
        [(f"tune stop {r.name}", "fewer epochs: what follows costs and brings nothing")]
        if r.held
        else [(f"{recipe} training.num_train_epochs=1", "fewer epochs: the same for less")]
    )
    if isinstance(rank, int):
        cures.append(
            (f"{recipe} peft.r={2 * rank} peft.lora_alpha={2 * (alpha or rank)}", f"twice the rank, {rank} now")
        )
    if isinstance(rank, int) and isinstance(alpha, int | float) and alpha < 2 * rank:
        cures.append((f"{recipe} peft.lora_alpha={2 * rank}", f"alpha twice the rank, {alpha:g} now"))
    cures.append(
        (f"{recipe} training.lr_scheduler_type=cosine_with_restarts", "rates that rise again may leave a hollow")
    )
    if rate is not None:
        cures.append((f"{recipe} training.learning_rate={1.5 * rate:g}", "a higher rate; watch for jumps"))
    why = (
        "the method, the data or both give no more: 2.3 to 2.5 is a floor for dialogue"
        if 2.2 <= value <= 2.7
        else "the method, the data or both give no more"
    )
    what = f"the evaluation has not moved since step {flat[0].step}: {value:.3f}"
    return Cause(
        "plateau",
        ADVICE,
        what,
        cause.said(
            _evals(r), f"within {FLAT * 100:g} % over {len(flat)} evaluations, learning rate {there:g}" if there else ""
        ),
        why,
        tuple(cures),
        GPT,
    )


def spikes(r: Record) -> Cause | None:
    """Losses that jumped."""
    found = r.events.get("spike", [])
    if not found:
        return None
    evidence = tuple(
        f"step {e.get('step')}: {cause.number(e.get('loss'))}, usual is {cause.number(e.get('median'))}{_at(e)}"
        for e in found[:4]
    )
    many = len(found) >= MANY_SPIKES
    at = cause.places(found[0].get("rows"))
    cures = (((f"look at {at}", "the rows of the first jump"),) if at else ()) + (
        (cause.again(r, cause.halved(cause.rate(r))), "half the learning rate"),
        (cause.again(r, f"training.warmup_steps={max(2 * _warmup(r), 50)}", restart=True), "more warmup"),
        (cause.again(r, "training.max_grad_norm=0.5"), f"clips the gradient harder, now {r.training.get('max_grad_norm', 1.0)}"),
    )  # fmt: skip
    why = (
        "the learning rate is too high"
        if many
        else "rows that differ from the others, or a learning rate that is a little high"
    )
    return Cause(
        "spikes",
        WARN if many else ADVICE,
        f"the loss jumped {cause.plural(len(found), 'time')}",
        evidence,
        why,
        cures,
        f"{STUDIO}; {MARCO}",
    )


def overflow(r: Record) -> Cause | None:
    """fp16: steps whose gradient overflowed, which the scaler leaves out."""
    if not r.training.get("fp16"):
        return None
    logged = [log for log in r.logs if log.grad_norm is not None or log.lost]
    later = logged[len(logged) // 10 :]
    lost = [log for log in later if log.lost]
    if len(later) < FEWEST or len(lost) < 0.1 * len(later):
        return None
    gpu = r.plan.get("gpu") or {}
    cures = [(cause.again(r, cause.halved(cause.rate(r))), "half the learning rate")]
    if gpu.get("bf16") is not False:
        cures.insert(
            0,
            (
                cause.again(r, "training.bf16=true", "training.fp16=false"),
                "bf16 has the range of fp32 and needs no scaler",
            ),
        )
    evidence = (f"{len(lost)} of {len(later)} logged gradients were not finite after the first tenth", cause.norms(r))
    return Cause(
        "fp16-overflow",
        WARN,
        "the fp16 scaler leaves out many steps",
        cause.said(*evidence),
        "gradients overflow fp16, whose largest number is 65,504",
        tuple(cures),
        GPT,
    )


def gap(r: Record) -> Cause | None:
    """A training loss far below the evaluation that has not begun to rise."""
    best, seen = r.best, [e for e in r.evaluations if e.step > 0]
    losses = [log.loss for log in r.logs if log.loss is not None]
    if best is None or not seen or len(losses) < FEWEST or best.step != seen[-1].step:
        return None
    train, last = level(third(losses, 2)), seen[-1].loss
    epochs = seen[-1].epoch
    if last < train * (1 + GAP) or not isinstance(epochs, int | float) or epochs < 1.5:
        return None
    what = f"the evaluation ({last:.3f}) lies {100 * (last / train - 1):.0f} % above the training loss ({train:.3f})"
    cures = (
        (f"tune data inspect {r.run.path / 'recipe.yaml'}", "whether the evaluation's rows are of the same kind"),
        (
            f"tune train {library.shown(r.run.path / 'recipe.yaml')} training.num_train_epochs=1",
            "fewer epochs, or more data",
        ),
    )
    return Cause(
        "gap",
        ADVICE,
        what,
        cause.said(_evals(r)),
        "rows begin to be learned by heart, or the evaluation is of another kind",
        cures,
        MARCO,
    )


CURVES: tuple[Callable[[Record], Cause | None], ...] = (
    no_gradient, not_falling, overfitting, plateau, spikes, overflow, gap, cut_answers,
)  # fmt: skip


def _after_warmup(r: Record) -> tuple[list[tuple[int, float]], Trend | None]:
    """`(step, loss)` of the logged losses after half of the warmup, and the line through them."""
    begin = _warmup(r) / 2
    points = [(log.step, log.loss) for log in r.logs if log.loss is not None and log.step >= begin]
    if len(points) < FEWEST:
        points = [(log.step, log.loss) for log in r.logs if log.loss is not None]
    return points, trend(points)


def _warmup(r: Record) -> int:
    """Steps of warmup; a share of all steps where it is below one."""
    value = r.training.get("warmup_steps") or 0
    if not finite(value):
        return 0
    return int(value * (r.total or 0)) if 0 < value < 1 else int(value)


def _at(event: dict[str, Any]) -> str:
    named = cause.places(event.get("rows"))
    return f": {named}" if named else ""


def _near(evaluations: list[Evaluation]) -> bool:
    values = [e.loss for e in evaluations]
    return max(values) - min(values) <= FLAT * abs(level(values))


def _rate_at(r: Record, step: int) -> float | None:
    known = [log.learning_rate for log in r.logs if log.learning_rate is not None and log.step <= step]
    return known[-1] if known else None


def _hands_best(r: Record) -> bool:
    return bool((r.plan.get("checkpoint") or {}).get("best", True)) and bool(r.events.get("best"))


def _evals(r: Record, count: int = 6) -> str:
    """`evaluations: 2.710 at step 200, 2.650 at 400`, the best among them."""
    seen = list(r.evaluations[-count:])
    best = r.best
    if best is not None and best not in seen:
        seen = [best, *seen[1:]]
    if not seen:
        return ""
    first, *rest = seen
    return ", ".join(
        [f"evaluations: {first.loss:.3f} at step {first.step}", *(f"{e.loss:.3f} at {e.step}" for e in rest)]
    )
