"""What the rules of advice look at, and what they say; with the readings and words that several of them need."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.plan import batch
from nothing_tune.plan import memory as memories
from nothing_tune.plan.architecture import Shape
from nothing_tune.plan.maths import Maths
from nothing_tune.plan.memory import Change, Estimate
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import Rows
from nothing_tune.plan.steps import steps
from nothing_tune.recipe.model import lookup

SEVERITIES = ("error", "warning", "advice")

NOTHING_GPT = "Nothing-GPT training reference"
MARCO = "Marco training parameters"
STUDIO = "PEFT Studio training guide"
CALLING = "Nemotron function-calling training guide"
OURS = "nothing-tune"
"""Where a rule is stated; OURS where it follows from how tune or its libraries work."""
BATCH = frozenset({f"training.{batch.MICRO}", f"training.{batch.ACCUMULATION}"})


def _key(word: str) -> str:
    return word.partition("=")[0]


@dataclass(frozen=True)
class Facts:
    """What is known of a run before it starts. None is unknown, and a rule that needs it is silent.

    Attributes:
        plan: The compiled recipe.
        rows: What is known of its rows.
        maths: Steps, evaluations, saves.
        shape: The base model's architecture.
        memory: Peak memory of the longest batch.
        without_checkpointing: The same without activation checkpointing.
        hours: Duration of the run.
        disk_free: Bytes free where the run will lie.
        checkpoint_bytes: Bytes of one checkpoint.
        cpus: Processors.
        changes: What `memory.changes` offers, so that no rule says it again or otherwise.
    """

    plan: Plan
    rows: Rows
    maths: Maths | None = None
    shape: Shape | None = None
    memory: Estimate | None = None
    without_checkpointing: Estimate | None = None
    hours: float | None = None
    disk_free: int | None = None
    checkpoint_bytes: int | None = None
    cpus: int | None = None
    changes: tuple[Change, ...] = ()

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the recipe; `default` where it is absent or null."""
        value = lookup(self.plan.values, key)
        return default if value is None else value

    @property
    def kind(self) -> str:
        """`cuda`, `mps` or `cpu`."""
        return str(self.plan.gpu.get("kind") or "cuda")

    @property
    def gpu(self) -> str:
        """The GPU as messages name it."""
        return str(self.plan.gpu.get("name") or "this GPU")

    @property
    def method(self) -> str:
        """The PEFT type in capitals; empty for full fine-tuning."""
        return str(self.plan.peft.get("peft_type") or "") if self.plan.peft else ""

    @property
    def micro(self) -> int:
        """Micro batch as the recipe writes it."""
        return int(self.get("training.per_device_train_batch_size") or batch.DEFAULTS[batch.MICRO])

    @property
    def accumulation(self) -> int:
        """Accumulation as the recipe writes it, for one process."""
        return int(self.get("training.gradient_accumulation_steps") or batch.DEFAULTS[batch.ACCUMULATION])

    @property
    def global_batch(self) -> int:
        """Rows of a step, on any number of processes."""
        return self.micro * self.accumulation

    @property
    def fits(self) -> bool | None:
        """Whether the longest batch fits the GPU; None where that is unknown."""
        usable = memories.usable(self.plan.gpu) if self.kind == "cuda" else None
        return None if usable is None or self.memory is None else self.memory.peak <= usable

    @property
    def rebatched(self) -> bool:
        """Whether a change for the memory's sake sets the batch."""
        return any(_key(word) in BATCH for change in self.changes for word in change.words)

    @property
    def limited(self) -> bool:
        """Whether `max_steps` ends the run, whatever the epochs are."""
        return int(self.plan.training.get("max_steps") or -1) > 0

    @property
    def epochs(self) -> float | None:
        """Passes over the rows; None where `max_steps` decides and the rows are unknown."""
        if self.limited:
            return self.maths.epochs if self.maths else None
        return float(self.plan.training.get("num_train_epochs") or 3)

    @property
    def half(self) -> str:
        """`bf16` or `fp16` where training runs in it; empty for float32."""
        return next((name for name in ("bf16", "fp16") if self.plan.training.get(name)), "")

    @property
    def checkpoints(self) -> bool:
        """Whether activations are recomputed."""
        value = self.plan.training.get("activation_checkpointing")
        return bool(value if value is not None else self.plan.training.get("gradient_checkpointing", True))

    @property
    def evaluates(self) -> bool:
        """Whether the recipe asks for evaluation of rows that it names."""
        return bool(self.plan.data.get("eval")) and str(self.plan.training.get("eval_strategy") or "no") != "no"

    @property
    def share(self) -> float | None:
        """Share of the rows that is held out; None where evaluation rows come from elsewhere, or there are none."""
        value = self.plan.data.get("eval")
        return float(value) if isinstance(value, float | int) and not isinstance(value, bool) and value > 0 else None

    @property
    def parameters(self) -> float | None:
        """Parameters of the base model; None where unknown."""
        if self.shape is not None:
            return float(self.shape.parameters)
        told = self.get("model.parameters_b")
        return float(told) * 1e9 if told else None

    def total(self, **over: Any) -> int | None:
        """Optimizer steps of the run with other keyword arguments of SFTConfig; None where the rows are unknown."""
        if self.maths is None:
            return None
        written = {**self.plan.training, batch.MICRO: self.micro, batch.ACCUMULATION: self.accumulation, **over}
        world = self.plan.world_size
        return int(steps(self.maths.sequences, {**written, **batch.spread(written, world)}, world)["total"])


@dataclass(frozen=True)
class Advice:
    """What may be unwise about a run.

    Attributes:
        rule: Name of the rule, see `nothing_tune/recipe/advice.py`.
        severity: `error` cannot work; `warning` will likely waste the run or money; `advice` may improve it.
        what: What is so, one clause; where `changes` is empty, with what to do about it.
        why: The reason, with the numbers of this run.
        changes: `key=value` words that settle it, as on the command line.
        key: The setting that it is about.
        source: Who says so.
    """

    rule: str
    severity: str
    what: str
    why: str
    changes: tuple[str, ...]
    key: str
    source: str


Rule = Callable[[Facts], Iterator[Advice]]


def name_of(rule: Rule) -> str:
    """The name of a rule: that of its function, with dashes."""
    return rule.__name__.replace("_", "-")


def batch_of(facts: Facts, rows: int) -> dict[str, int] | None:
    """Micro batch and accumulation for about `rows` rows a step, at least these, fewer than twice as many; None where the
    processes leave no such number. The micro batch is kept where it can be, and never grows."""
    world = facts.plan.world_size
    kept = [n for n in range(rows, 2 * rows) if n % world == 0 and n % facts.micro == 0]
    near = kept or [n for n in range(rows, 2 * rows) if n % world == 0]
    if not near:
        return None
    micro = next(m for m in range(min(facts.micro, near[0]), 0, -1) if near[0] % m == 0)
    return {batch.MICRO: micro, batch.ACCUMULATION: near[0] // micro}


def batch_words(facts: Facts, settings: Mapping[str, int]) -> tuple[str, ...]:
    """`settings` of micro batch and accumulation as words, those alone that change."""
    now = {batch.MICRO: facts.micro, batch.ACCUMULATION: facts.accumulation}
    return tuple(f"training.{key}={value}" for key, value in settings.items() if now[key] != value)


def count(number: float) -> str:
    """`1,686`; fractions with two digits at most."""
    return f"{number:,.2f}".rstrip("0").rstrip(".")


def many(number: float, unit: str) -> str:
    """`3 epochs`, `1 epoch`."""
    return f"{count(number)} {unit}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """`12 %`; with a digit below 10 %."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 9.95 or value == round(value) else f"{value:.1f} %"


def rate(value: float) -> str:
    """A learning rate as people write it: `2e-4`."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def number(value: float) -> str:
    """A plain number: `0.05`, `16`."""
    return f"{value:.4g}"


def neat(value: float) -> int:
    """`value` rounded down to two digits, at least 1: 843 is 840."""
    digits = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return max(1, int(value // digits * digits))
