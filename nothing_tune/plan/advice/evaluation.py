"""Advice on evaluation, and on what is kept and logged because of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nothing_tune.plan.advice.facts import (
    MARCO,
    NOTHING_GPT,
    OURS,
    STUDIO,
    Advice,
    Facts,
    Rule,
    count,
    many,
    neat,
    number,
    percent,
)

LEAST_ROWS = 30
"""Rows whose losses differ by 0.5 nats give a mean that is uncertain by 0.09 from 30 rows on; Nothing-GPT tells runs apart by 0.04."""
FEWEST = 10
"""Rows of which a tenth is a row."""
MOST_SHARE = 0.2
"""PEFT Studio: 10 to 20 %."""
LEAST_EVALUATIONS, TOO_FEW = 4, 3
"""Nothing-GPT: flat across 2 or more evaluations is a plateau, and it evaluates 4 times an epoch; one an epoch is too rare (Marco,
Nothing-GPT)."""
DEAR, DEARER = 0.5, 1.0
"""Time of all evaluations, of the time of training itself."""
SPARSE, DENSE, LONG = 100, 5, 1000
"""Marco: a log line every 10 to 20 steps; 100 and more misses much, below 5 is noise (here: in a run of more than 1,000 steps)."""
EVAL, STRATEGY, EVERY = "data.eval", "training.eval_strategy", "training.eval_steps"


def no_validation(facts: Facts) -> Iterator[Advice]:
    """Only rows that are not trained on show when a model begins to learn by heart."""
    named = bool(facts.plan.data.get("eval"))
    strategy = str(facts.plan.training.get("eval_strategy") or "no")
    source = f"{STUDIO}, validation split; {MARCO}, overfitting protection"
    why = "overfitting stays unseen, and no checkpoint is better than another"
    steps = () if facts.get(EVERY) else (f"{EVERY}=100",)
    on = () if strategy != "no" else (f"{STRATEGY}=steps", *steps)
    if not named or strategy == "no":
        what = "nothing is evaluated" if named else "no rows are held out to evaluate on"
        share = () if named else (f"{EVAL}=0.1",)
        if facts.share and facts.rows.train is not None and facts.share * facts.rows.train < 1:
            share = (f"{EVAL}={MOST_SHARE}",)
        if facts.rows.train is not None and facts.rows.train < FEWEST and (facts.share or not named):
            what, share, on = f"{what}: gather rows, {facts.rows.train} are too few to hold any out", (), ()
        yield Advice("no-validation", "warning", what, why, (*share, *on), STRATEGY if named else EVAL, source)
    elif facts.rows.eval == 0 and facts.rows.train is not None and facts.share is not None:
        what = f"data.eval {number(facts.share)} holds out no row"
        told = f"{count(facts.rows.train)} rows in all; {why}"
        if facts.rows.train * MOST_SHARE >= 1 and facts.share < MOST_SHARE:
            yield Advice("no-validation", "warning", what, told, (f"{EVAL}={MOST_SHARE}",), EVAL, source)
        else:
            yield Advice("no-validation", "warning", f"{what}: gather rows", told, (), EVAL, source)


def validation_few_rows(facts: Facts) -> Iterator[Advice]:
    """The mean loss of few rows says little."""
    held, rows = facts.rows.eval, facts.rows.train
    if not facts.evaluates or not held or held >= LEAST_ROWS:
        return
    why = f"where losses of rows differ by 0.5, the mean of {held} is uncertain by {0.5 / math.sqrt(held):.2f}; runs differ by less"
    what = f"{held} evaluation rows"
    source = f"{OURS}; {STUDIO} holds out 10 to 20 %"
    if facts.share is not None and rows:
        needed = math.ceil(100 * LEAST_ROWS / (rows + held) + 0.5) / 100
        if needed <= MOST_SHARE:
            yield Advice("validation-few-rows", "advice", what, why, (f"{EVAL}={number(needed)}",), EVAL, source)
            return
    action = f"{what}: gather rows, at least {LEAST_ROWS} to evaluate on"
    yield Advice("validation-few-rows", "advice", action, why, (), EVAL, source)


def validation_share(facts: Facts) -> Iterator[Advice]:
    """What is held out is not learned from."""
    share = facts.share
    if not facts.evaluates or share is None or share <= MOST_SHARE:
        return
    total = (facts.rows.train or 0) + (facts.rows.eval or 0)
    enough = 0.1 if not total or 0.1 * total >= LEAST_ROWS else MOST_SHARE
    rows = f"{count(facts.rows.eval)} rows" if facts.rows.eval else "they"
    yield Advice(
        "validation-share",
        "advice",
        f"{percent(share)} of the rows are held out",
        f"{rows} teach nothing; 10 to 20 % are enough",
        (f"{EVAL}={enough}",),
        EVAL,
        f"{STUDIO}, validation split",
    )


def evaluation_rare(facts: Facts) -> Iterator[Advice]:
    """A plateau is seen in three evaluations or more, and the best checkpoint is one of those that were evaluated."""
    maths = facts.maths
    if maths is None or not maths.exact or maths.evaluations is None or maths.total < 2 * LEAST_EVALUATIONS:
        return
    found = maths.evaluations
    if found.count >= LEAST_EVALUATIONS and (found.share < 1 or maths.per_epoch == 1):
        return
    each = min(maths.per_epoch // 4, maths.total // LEAST_EVALUATIONS)
    if _cost(facts, max(each, 1)) > DEAR:
        each = min(maths.per_epoch // 2, maths.total // LEAST_EVALUATIONS)
    steps = () if str(facts.plan.training.get("eval_strategy")) == "steps" else (f"{STRATEGY}=steps",)
    delay = ("training.eval_delay=0",) if facts.get("training.eval_delay") else ()
    yield Advice(
        "evaluation-rare",
        "warning" if found.count < TOO_FEW else "advice",
        f"{many(found.count, 'evaluation')} in the whole run",
        f"{_due(facts)}; a plateau is two or more without gain, and one evaluation an epoch is too rare to see it",
        (*steps, f"{EVERY}={_meeting(facts, max(each, 1))}", *delay),
        EVERY,
        f"{NOTHING_GPT}, when to worry, and eval_strategy; {MARCO}, steps vs epochs",
    )


def _due(facts: Facts) -> str:
    """How often a run evaluates: `every 500 of 1,875 steps, 80 % of an epoch`."""
    maths = facts.maths
    assert maths is not None
    assert maths.evaluations is not None
    found = maths.evaluations
    if found.steps >= maths.total:
        first = "at its start and its end" if facts.plan.training.get("eval_on_start") else "at its end"
        return f"evaluation is due every {count(found.steps)} steps, and the run has {count(maths.total)}: only {first}"
    share = f"{percent(found.share)} of an epoch" if found.share < 2 else f"{found.share:.1f} epochs"
    return f"one every {count(found.steps)} of {count(maths.total)} steps, {share}"


TRIAL = 50
"""A run of fewer steps is a trial, whose evaluation costs nothing that matters."""


def evaluation_costs(facts: Facts) -> Iterator[Advice]:
    """Evaluation is a forward pass over all its rows, each time."""
    maths = facts.maths
    if maths is None or maths.evaluations is None or not maths.exact or not facts.rows.eval or maths.total < TRIAL:
        return
    now = maths.evaluations
    cost = _cost(facts, now.steps, now.count)
    if cost <= DEAR:
        return
    limit = max(1, min(maths.per_epoch // 2, maths.total // LEAST_EVALUATIONS))
    each, after = now.steps, cost
    while after > DEAR and each < limit:
        each = min(limit, neat(max(each * 1.25, each + 1)))
        after = _cost(facts, each)
    each = (
        next((n for n in range(each, min(limit, 2 * each) + 1) if _meets(facts, n)), each) if each > now.steps else each
    )
    words = (f"{EVERY}={each}",) if each > now.steps else ()
    words = words and (*(() if facts.get(STRATEGY) == "steps" else (f"{STRATEGY}=steps",)), *words)
    what = f"evaluation takes about {percent(cost)} of the time of training"
    if after > DEAR:
        share = facts.share
        smaller = math.floor(100 * share * 0.9 * DEAR / after) / 100 if share else 0.0
        if smaller >= 0.01:
            words = (*words, f"{EVAL}={number(smaller)}")
        else:
            rows = max(1, int(facts.rows.eval * DEAR / after))
            words, what = (), f"{what}: evaluate on {count(rows)} rows at most, with max_rows in data.eval"
    yield Advice(
        "evaluation-costs",
        "warning" if cost > DEARER else "advice",
        what,
        f"{now.count} evaluations of {count(facts.rows.eval)} rows are {count(now.count * facts.rows.eval)} rows, against "
        f"{count(round(maths.rows * maths.epochs))} that are trained on; a forward pass is {percent(_forward(facts))} of a training step",
        words,
        EVERY if words else EVAL,
        f"{MARCO}, eval_steps: evaluation is expensive",
    )


def saves_at_odds(facts: Facts) -> Iterator[Advice]:
    """The best checkpoint is saved at its evaluation, besides those of save_steps: where they do not meet, both are written."""
    maths, best = facts.maths, facts.plan.checkpoint.get("best")
    if maths is None or maths.evaluations is None or maths.saves is None or not best:
        return
    if {facts.get(STRATEGY), facts.get("training.save_strategy", "steps")} != {"steps"}:
        return
    evaluate, save = maths.evaluations.steps, maths.saves.steps
    if evaluate % save == 0 or save % evaluate == 0 or save >= maths.total or evaluate >= maths.total:
        return
    each = evaluate * max(1, round(save / evaluate))
    yield Advice(
        "saves-at-odds",
        "advice",
        "saves and evaluations do not meet",
        f"it saves every {count(save)} steps and evaluates every {count(evaluate)}; each new best evaluation is saved besides, so "
        "that more is written than either asks for",
        (f"training.save_steps={each}",),
        "training.save_steps",
        f"{NOTHING_GPT}, save_steps",
    )


def best_not_kept(facts: Facts) -> Iterator[Advice]:
    """The last checkpoint may not be the best."""
    if facts.plan.checkpoint.get("best") or not facts.evaluates or (facts.maths and facts.maths.evaluations is None):
        return
    yield Advice(
        "best-not-kept",
        "advice",
        "the last checkpoint is handed over, however it evaluates",
        "the run evaluates anyway; with load_best_model_at_end the best one is kept and handed over",
        ("training.load_best_model_at_end=true",),
        "training.load_best_model_at_end",
        f"{MARCO}, load_best_model_at_end; {NOTHING_GPT}",
    )


def patience_never_reached(facts: Facts) -> Iterator[Advice]:
    """Patience counts evaluations without gain; a run with no more than that never stops early."""
    patience, maths = facts.plan.monitor.get("early_stopping_patience"), facts.maths
    if patience is None or maths is None or maths.evaluations is None or not maths.exact:
        return
    done = maths.evaluations.count - int(bool(facts.plan.training.get("eval_on_start")))
    if patience < done or done < 2:
        return
    yield Advice(
        "patience-never-reached",
        "advice",
        f"early stopping waits for {patience} evaluations without gain, and the run has {done}",
        f"one every {count(maths.evaluations.steps)} of {count(maths.total)} steps: it can never stop early",
        (f"monitor.early_stopping_patience={max(1, min(3, done // 2))}",),
        "monitor.early_stopping_patience",
        f"{STUDIO}, early stopping",
    )


def logging_interval(facts: Facts) -> Iterator[Advice]:
    """What is logged rarely is seen late; what is logged at every step is noise, and waits for the GPU each time."""
    each, maths = facts.get("training.logging_steps"), facts.maths
    if maths is None or facts.get("training.logging_strategy", "steps") != "steps":
        return
    if not isinstance(each, int | float) or each < 1:
        return
    if each >= SPARSE:
        what = f"the loss is logged every {count(each)} steps"
        why = f"{count(maths.total // each)} times in {count(maths.total)} steps; from {SPARSE} on much of what happens is missed"
    elif each < DENSE and maths.total > LONG:
        what = f"the loss is logged {'at every step' if each == 1 else f'every {count(each)} steps'}"
        why = f"{count(maths.total // each)} lines in {count(maths.total)} steps, each waits for the GPU; every 10 to 20 is enough"
    else:
        return
    key = "training.logging_steps"
    yield Advice("logging-interval", "advice", what, why, (f"{key}=10",), key, f"{MARCO}, logging_steps")


def _forward(facts: Facts) -> float:
    """Share of a training step that a forward pass takes: by multiplications, 2 of a weight forward, 2 back to the inputs, 2 for
    the weight's own gradient where it trains, and the forward pass again where activations are recomputed."""
    return 2 / (4 + (0 if facts.method else 2) + (2 if facts.checkpoints else 0))


def _meets(facts: Facts, each: int) -> bool:
    """Whether evaluations every `each` steps fall together with the saves."""
    saves = facts.maths.saves if facts.maths else None
    if saves is None or not facts.plan.checkpoint.get("best") or facts.get("training.save_strategy") != "steps":
        return True
    return (
        each % saves.steps == 0 or saves.steps % each == 0 or saves.steps >= (facts.maths.total if facts.maths else 0)
    )


def _meeting(facts: Facts, each: int) -> int:
    """A number of steps from half of `each` to `each` that falls together with the saves, else a round one."""
    return next((n for n in range(neat(each), each // 2, -1) if _meets(facts, n)), neat(each))


def _cost(facts: Facts, each: int, times: int | None = None) -> float:
    """Time of all evaluations, one every `each` steps, of the time of training."""
    maths = facts.maths
    assert maths is not None
    if times is None:
        times = math.ceil(maths.total / each) + int(bool(facts.plan.training.get("eval_on_start")))
    return times * (facts.rows.eval or 0) * _forward(facts) / (maths.rows * maths.epochs)


RULES: tuple[Rule, ...] = (
    no_validation,
    validation_few_rows,
    validation_share,
    evaluation_rare,
    evaluation_costs,
    saves_at_odds,
    best_not_kept,
    patience_never_reached,
    logging_interval,
)
"""Rules of this file, in the order in which they are shown."""
