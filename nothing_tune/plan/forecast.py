"""The forecast: what a plan will do, whether it fits, how long it takes, what it costs and what is unwise about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nothing_tune.errors import Problem
from nothing_tune.plan import advice as advising
from nothing_tune.plan import memory as memories
from nothing_tune.plan.advice import Advice, Facts
from nothing_tune.plan.architecture import Shape, Unlisted, adapter_parameters, shape
from nothing_tune.plan.batch import CHECKPOINTING, MICRO
from nothing_tune.plan.cost import Cost, prices
from nothing_tune.plan.maths import Maths, maths
from nothing_tune.plan.memory import Change, Estimate
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import Rows
from nothing_tune.plan.speed import Speed, speed
from nothing_tune.recipe.providers import Provider

FITS, DOES_NOT_FIT, CANNOT_TELL = memories.FITS, memories.TOO_BIG, memories.UNKNOWN
PACE_BAND = 0.25
"""Share by which a run may be slower or faster than one like it was. Assumed: the machine may do other work besides."""
EXIT_CODES = {FITS: 0, DOES_NOT_FIT: 3, CANNOT_TELL: 6}


@dataclass(frozen=True)
class Machine:
    """What is known of the machine beside the plan. None is unknown.

    Attributes:
        disk_free: Bytes free where runs are kept.
        cpus: Processors.
        host_memory: Bytes of memory that a training without a GPU may use.
        today: The date, YYYY-MM-DD, by which prices are old.
    """

    disk_free: int | None = None
    cpus: int | None = None
    host_memory: int | None = None
    today: str | None = None


@dataclass(frozen=True)
class Pace:
    """What a run like this one took: `step_s` seconds a step, evaluations and checkpoints included, over `steps` steps of `run`."""

    step_s: float
    steps: int
    run: str


@dataclass(frozen=True)
class Memory:
    """Peak GPU memory of a step.

    Attributes:
        longest: For the longest batch that the data can produce, as far as that is known; else for rows of `max_length`.
        typical: For a usual batch; None where the lengths of the rows are unknown, or all batches are alike.
        usable: Bytes that a training may use; None where unknown.
        verdict: `fits`, `does not fit` or `cannot tell`, for `longest`.
        holds: Longest rows, in tokens, with which the plan fits; None where that is unknown or it always does.
        changes: Nearest changes that would fit, or use the GPU better.
        least: The least peak, in bytes, that changes of settings reach, where none of them makes it fit; else None.
    """

    longest: Estimate
    typical: Estimate | None
    usable: int | None
    verdict: str
    holds: int | None
    changes: tuple[Change, ...]
    least: int | None = None


@dataclass(frozen=True)
class Forecast:
    """A plan looked at before it runs. None is unknown.

    Attributes:
        plan: The plan.
        rows: What is known of its rows.
        maths: Steps, evaluations, saves; None where the number of rows is unknown.
        config_source: Where the architecture was read, or why it could not be.
        shape: The architecture; None where it is unknown, or a family that the arithmetic does not know.
        trainable: Trainable parameters.
        untold: Why there is no `memory`; empty where there is.
        memory: Peak memory by term.
        speed: Tokens a second and hours, with a band.
        pace: What a run like this one took on this machine; it takes the place of `speed` for the hours.
        costs: Price of the run by provider, cheapest first.
        advice: What may be unwise, gravest first; not what the recipe accepts.
        accepted: `(advice, reason)` of what the recipe accepts.
    """

    plan: Plan
    rows: Rows
    maths: Maths | None
    config_source: str
    shape: Shape | None
    trainable: int | None
    untold: str
    memory: Memory | None
    speed: Speed | None
    costs: tuple[Cost, ...]
    advice: tuple[Advice, ...]
    accepted: tuple[tuple[Advice, str], ...] = ()
    pace: Pace | None = None

    @property
    def hours(self) -> tuple[float, float, float] | None:
        """Hours of the run: expected, the fewest and the most that are likely. None is unknown."""
        return _hours(self.maths, self.pace, self.speed)

    @property
    def verdict(self) -> str:
        """`fits`, `does not fit` or `cannot tell`."""
        return self.memory.verdict if self.memory else CANNOT_TELL

    @property
    def errors(self) -> tuple[str, ...]:
        """What in the data or the recipe cannot be trained on, one sentence each."""
        found = [str(f["what"]) for f in self.rows.findings if f.get("severity") == "error"]
        return (*found, *(a.what for a in self.advice if a.severity == "error"))

    def exit_code(self, strict: bool = False) -> int:
        """0 it fits · 3 it does not, or cannot train; with `strict` also where there is a warning · 6 cannot tell."""
        warned = any(a.severity == "warning" for a in self.advice)
        warned = warned or any(f.get("severity") == "warning" for f in self.rows.findings)
        if self.errors or (strict and warned):
            return EXIT_CODES[DOES_NOT_FIT]
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data, without the plan itself."""
        rows = asdict(self.rows)
        rows.pop("report")
        return {
            "version": 1,
            "name": self.plan.name,
            "gpu": self.plan.gpu,
            "verdict": self.verdict,
            "errors": list(self.errors),
            "rows": rows,
            "maths": asdict(self.maths) if self.maths else None,
            "model": {
                "name_or_path": self.plan.model.get("name_or_path"),
                "config": self.config_source,
                "family": self.shape.family if self.shape else None,
                "parameters": self.shape.parameters if self.shape else None,
                "trainable": self.trainable,
            },
            "memory": asdict(self.memory) if self.memory else None,
            "memory_untold": self.untold,
            "hours": list(self.hours) if self.hours else None,
            "speed": asdict(self.speed) if self.speed else None,
            "pace": asdict(self.pace) if self.pace else None,
            "costs": [asdict(c) for c in self.costs],
            "advice": [asdict(a) for a in self.advice],
            "accepted": [{**asdict(a), "reason": reason} for a, reason in self.accepted],
        }


def forecast(
    plan: Plan,
    rows: Rows,
    config: Mapping[str, Any] | None,
    config_source: str,
    providers: Sequence[Provider],
    machine: Machine,
    simulated: Estimate | None = None,
    pace: Pace | None = None,
) -> Forecast:
    """Looks at `plan` before it runs.

    Args:
        config: The base model's config.json; None where it cannot be had.
        config_source: Where it was read, or why it could not be.
        providers: Prices, see `recipe.providers`.
        simulated: What the simulation of the longest batch said; it takes the place of the arithmetic there.
        pace: What a run like this one took on this machine.
    """
    known, untold = _shape(config, config_source)
    counted = maths(rows, plan)
    found, why = _memory(plan, rows, known, simulated, machine) if known or simulated else (None, untold)
    fast = speed(known, plan, rows, counted) if known and counted else None
    hours = _hours(counted, pace, fast)
    trainable = adapter_parameters(known, plan.peft) if known else None
    told = advising.advise(
        Facts(
            plan=plan,
            rows=rows,
            maths=counted,
            shape=known,
            memory=found.longest if found else None,
            without_checkpointing=_kept(plan, known, found),
            hours=hours[0] if hours else None,
            disk_free=machine.disk_free,
            checkpoint_bytes=_checkpoint_bytes(plan, found),
            cpus=machine.cpus,
            changes=found.changes if found else (),
        )
    )
    told, accepted = advising.settled(told, plan.values)
    found = replace(found, changes=advising.compatible(found.changes, told)) if found else None
    return Forecast(
        plan=plan,
        rows=rows,
        maths=counted,
        config_source=config_source,
        shape=known,
        trainable=trainable,
        untold=why,
        memory=found,
        speed=fast,
        pace=pace,
        costs=tuple(_prices(plan, hours, providers, machine))
        if hours and plan.gpu.get("kind", "cuda") == "cuda"
        else (),
        advice=tuple(told),
        accepted=tuple(accepted),
    )


def _hours(counted: Maths | None, pace: Pace | None, fast: Speed | None) -> tuple[float, float, float] | None:
    if counted and pace:
        expected = counted.total * pace.step_s / 3600
        return expected, expected * (1 - PACE_BAND), expected * (1 + PACE_BAND)
    return (fast.hours, fast.hours_low, fast.hours_high) if fast else None


def _prices(
    plan: Plan, hours: tuple[float, float, float], providers: Sequence[Provider], machine: Machine
) -> list[Cost]:
    return prices(providers, str(plan.gpu.get("name")), hours, plan.world_size, plan.values, machine.today)


def batch(plan: Plan, rows: Rows, context: int | None) -> tuple[int, int]:
    """`(rows, tokens)` of the longest batch that the data can produce, as far as it is known.

    Without the rows' lengths that is `max_length`; without a `max_length` the `context` that the model can read.
    """
    micro = memories.rows_at_once(plan, rows)
    limit = plan.values.get("training", {}).get("max_length") or plan.training.get("max_length")
    return micro, int(rows.longest or limit or context or 1024)


def _shape(config: Mapping[str, Any] | None, source: str) -> tuple[Shape | None, str]:
    if config is None:
        return None, source
    try:
        return shape(config), ""
    except Unlisted as error:
        return None, f"{error}; --simulate may tell"


def _memory(
    plan: Plan, rows: Rows, known: Shape | None, simulated: Estimate | None, machine: Machine
) -> tuple[Memory | None, str]:
    """`(memory, why there is none)`."""
    micro, length = batch(plan, rows, known.context if known else None)
    longest, typical, holds = simulated, None, None
    changes: Sequence[Change] = ()
    if known is not None:
        try:
            longest = simulated or memories.estimate(known, plan, micro, length)
            grouped = plan.training.get("train_sampling_strategy") == "group_by_length"
            usual = rows.typical(micro, length, bool(plan.training.get("packing")), grouped)
            typical = memories.estimate(known, plan, micro, usual) if usual and usual < length else None
            holds = memories.longest(known, plan, micro) if plan.gpu.get("kind", "cuda") == "cuda" else None
            changes = memories.changes(known, plan, rows) if plan.gpu.get("kind", "cuda") == "cuda" else ()
        except Unlisted as error:
            if simulated is None:
                return None, f"{error}; --simulate may tell"
    assert longest is not None
    usable = memories.usable(plan.gpu) if plan.gpu.get("kind", "cuda") == "cuda" else machine.host_memory
    verdict = CANNOT_TELL if usable is None else FITS if longest.peak <= usable else DOES_NOT_FIT
    least = None
    if known is not None and verdict == DOES_NOT_FIT and not changes:
        smallest = memories.smallest(known, plan, rows)
        least = smallest.peak if smallest else None
    return Memory(longest, typical, usable, verdict, holds, tuple(changes), least), ""


def _kept(plan: Plan, known: Shape | None, found: Memory | None) -> Estimate | None:
    """The longest batch without activation checkpointing; None where it is off anyway, or unknown."""
    if known is None or found is None:
        return None
    off = {CHECKPOINTING: False, "gradient_checkpointing": False}
    try:
        return memories.estimate(
            known, replace(plan, training={**plan.training, **off}), found.longest.rows, found.longest.length
        )
    except Unlisted:
        return None


def _checkpoint_bytes(plan: Plan, found: Memory | None) -> int | None:
    """Size of a checkpoint: what trains, and the optimizer's state; None where unknown."""
    if found is None:
        return None
    terms = found.longest.terms
    return terms["optimizer"] + (terms["adapters"] if plan.peft else terms["weights"])


def impossible(found: Forecast) -> list[Problem]:
    """Why a run of this plan cannot work, whatever is changed while it trains; empty where it might.

    Out of memory alone is no reason: a run makes its batch smaller by itself. Only where the smallest batch would not fit,
    even at the lower end of the band, it is.
    """
    problems = [Problem(a.what, a.key, hint=" ".join(a.changes)) for a in found.advice if a.severity == "error"]
    smallest = _smallest(found)
    if smallest and found.memory and found.memory.usable and smallest.low > found.memory.usable:
        gpu, usable = found.plan.gpu.get("name"), found.memory.usable / (1 << 30)
        what = (
            f"the run does not fit {gpu}: one row at a time with activation checkpointing needs about "
            f"{smallest.peak / (1 << 30):.1f} GiB, and {usable:.1f} GiB are usable"
        )
        change = found.memory.changes[0] if found.memory.changes else None
        cure = f"{' '.join(change.words)} needs {change.estimate.peak / (1 << 30):.1f} GiB" if change else ""
        hint = "; ".join(
            filter(None, [cure, "tune plan RECIPE --fits shows other GPUs", "--anyway starts it all the same"])
        )
        problems.append(Problem(what, "gpu.name", hint=hint))
    return problems


def _smallest(found: Forecast) -> Estimate | None:
    """A step of one row with activation checkpointing; a short row where the rows are not known."""
    if found.shape is None or found.plan.gpu.get("kind", "cuda") != "cuda":
        return None
    small = {MICRO: 1, CHECKPOINTING: True}
    try:
        return memories.estimate(
            found.shape, replace(found.plan, training={**found.plan.training, **small}), 1, found.rows.longest or 64
        )
    except Unlisted:
        return None
