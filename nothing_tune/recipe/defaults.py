"""Defaults of a first recipe, each with its reason, from what is known of the model, the data and the goal. Pure.

The ranges are PEFT Studio's (its training guide); the rules are named with their source where they are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.recipe.compose import number
from nothing_tune.recipe.ranges import Range

LORA_LIKE = ("lora", "qlora", "dora", "pissa", "olora", "loftq", "rslora")
"""Methods of the library whose rank, alpha and dropout are LoRA's."""
SHARES = Range(0.1, 0.2)
"""Shares of the rows that PEFT Studio's guide holds out."""
WARMUP = Range(0, 1000)
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
"""What max_length is rounded up to, in tokens; memory follows the longest row in a batch, so 512 costs short rows nothing."""
BYTES_A_TOKEN = 3.5
"""UTF-8 bytes of text that a token of today's tokenizers covers, on the careful side: about 4 for English (OpenAI's help page on
tokens, 2024: 4 characters), less for code and for languages that the tokenizer knows little of."""


@dataclass(frozen=True)
class Goal:
    """What a model is tuned for: `title`, `when` to take it, the `length` in tokens where the data says nothing, LoRA's `rank`."""

    title: str
    when: str
    length: int
    rank: int


GOALS: dict[str, Goal] = {
    "chat": Goal("a conversation of several turns", "learns the assistant's words alone", 2048, 16),
    "instruction": Goal("one request, one answer", "learns the answers alone", 1024, 16),
    "function-calling": Goal("calls functions", "long rows; short ones are packed", 4096, 16),
    "style": Goal("a voice or a persona", "a higher rank, as Nothing-GPT has", 1024, 32),
    "completion": Goal("goes on with plain text", "learns every word; short rows are packed", 2048, 16),
}
"""What a recipe may be for."""


@dataclass(frozen=True)
class Default:
    """A value and the reason for it; `value` None leaves what the layers say."""

    value: Any
    why: str


@dataclass(frozen=True)
class Facts:
    """What the defaults are computed from. None is unknown.

    Attributes:
        method: Name of the method's layer.
        goal: One of `GOALS`.
        parameters_b: Size of the model, 10^9 parameters.
        rows: Rows of the data before any is held out.
        about: Whether `rows` is an estimate.
        usual: Tokens of a mean row, by its bytes.
        long: Tokens that 99 % of the rows do not exceed, by their bytes.
        context: Longest sequence that the model takes, in tokens.
        kind: Kind of the canonical rows: messages, prompt-completion, text.
        share: Share of the rows held out; None where evaluation rows have a source of their own, or there are none.
        evaluates: Whether there are evaluation rows.
        fits: `(rows at once, tokens) -> whether it fits the GPU`; None where that is not known.
    """

    method: str
    goal: str
    parameters_b: float | None = None
    rows: int | None = None
    about: bool = False
    usual: float | None = None
    long: float | None = None
    context: int | None = None
    kind: str = ""
    share: float | None = 0.1
    evaluates: bool = True
    fits: Callable[[int, int], bool | None] | None = None

    @property
    def told_rows(self) -> str:
        """`1,204 rows`, `about 1,200 rows`; empty where unknown."""
        if self.rows is None:
            return ""
        return f"{'about ' if self.about else ''}{self.rows:,} row{'' if self.rows == 1 else 's'}"


@dataclass(frozen=True)
class Knob:
    """A setting that has a default of its own: its dotted `key`, the usual `range`, what it is, and how its default is found.

    `default` gets the facts and the values of the knobs before it, by name. `whole` numbers only, `flag` true or false.
    """

    key: str
    what: str
    range: Range
    default: Callable[[Facts, Mapping[str, Any]], Default]
    whole: bool = False
    flag: bool = False
    methods: tuple[str, ...] = ()


def _max_length(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    goal, limit = GOALS[facts.goal], facts.context or LENGTHS[-1]
    if facts.long is None:
        length, why = min(goal.length, limit), f"usual for {facts.goal}; tune data inspect counts the real tokens"
    else:
        wanted = max(facts.long, 1)
        length = min(next((n for n in LENGTHS if n >= wanted), LENGTHS[-1]), limit, 4096 if wanted <= 8192 else 8192)
        why = f"99 % of the rows have up to about {round(wanted):,} tokens, by their bytes"
        if length < wanted:
            why += "; longer rows are cut, see data.truncation"
    shorter = length
    while facts.fits and shorter > 256 and facts.fits(1, shorter) is False:
        shorter //= 2
    if shorter < length:
        why = f"the longest at which one row fits the GPU; {why}"
    return Default(shorter, why)


def _packing(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    length = int(chosen["max_length"])
    if facts.goal in ("completion", "function-calling") and facts.usual and (facts.rows or 0) >= 1000:
        share = facts.usual / length
        if share < 0.5:
            return Default(True, f"a usual row fills {share * 100:.0f} % of max_length: packed, none of it is wasted")
    return Default(False, "each row is a sequence of its own")


def _rank(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    if facts.method == "rslora":
        return Default(32, "rsLoRA is for ranks above 16 (arXiv 2312.03732)")
    if facts.rows is not None and facts.rows < 500:
        return Default(8, f"{facts.told_rows}: few rows fill no large adapter; PEFT Studio's default")
    if facts.goal == "style":
        return Default(32, "a new voice needs more room: Nothing-GPT levelled off later at 32 than at 16")
    return Default(GOALS[facts.goal].rank, "enough for most tasks, and a small file")


def _alpha(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    rank = chosen.get("rank") or 16
    if facts.method == "rslora":
        return Default(16, f"scaled by alpha / sqrt(rank), here {16 / math.sqrt(rank):.1f}")
    if rank >= 32:
        return Default(rank, "alpha / rank = 1, as Nothing-GPT has at this rank")
    return Default(2 * rank, "twice the rank, as PEFT Studio advises")


def _dropout(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    if facts.method == "pissa":
        return Default(0.0, "PiSSA's paper trains without: the adapter holds the main part of the weight")
    if facts.rows is not None and facts.rows < 1000:
        return Default(0.1, f"{facts.told_rows}: few, so the adapter is kept from learning them by heart")
    return Default(0.05, "PEFT Studio's default")


def _rate(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    size, method = facts.parameters_b, facts.method
    own = {"full": (1e-5, "every weight trains: LoRA's rate would destroy what the base knows")}
    own["ia3"] = (3e-3, "the IA3 paper's rate; vectors bear more than matrices (arXiv 2205.05638)")
    own["vera"] = (2e-3, "vectors bear about ten times LoRA's rate (arXiv 2310.11454)")
    if method in own:
        return Default(*own[method])
    if size is not None and size < 0.1:
        return Default(3e-3, f"a model of {size * 1000:.0f} M parameters bears far more than the usual 2e-4")
    if size is not None and size >= 13:
        return Default(1e-4, f"{size:.0f} B parameters: larger models want smaller steps, 1e-4 to 2e-4 (PEFT Studio)")
    if (facts.rows or 0) >= 50_000:
        return Default(1e-4, f"{facts.told_rows}: more data, a lower rate (PEFT Studio)")
    return Default(2e-4, "PEFT Studio's default, and the QLoRA paper's for models of this size")


def _epochs(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    rows = facts.rows
    if rows is None:
        return Default(2, "a careful middle: how many rows there are is not known")
    if rows >= 50_000:
        return Default(1, f"{facts.told_rows}: one pass over so many is enough")
    if rows >= 5_000:
        return Default(2, f"{facts.told_rows}: large sets want 1 or 2 passes (PEFT Studio)")
    return Default(3, f"{facts.told_rows}: small sets want 3 to 5 passes, and above 3 most learn by heart")


def global_batch(facts: Facts) -> int:
    """Rows a step: 16, or 8 where the rows are so few that steps would be, too."""
    return 8 if facts.rows is not None and facts.rows < 500 else 16


def _batch(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    whole, length = global_batch(facts), int(chosen["max_length"])
    sizes = [n for n in (8, 4, 2, 1) if n <= whole]
    if facts.fits is not None:
        told = {n: facts.fits(n, length) for n in sizes}
        found = next((n for n in sizes if told[n]), None)
        if found is not None:
            larger = [n for n in sizes if n > found]
            why = f"{larger[-1]} x {length:,} tokens would not fit" if larger else "more at once is hardly faster"
            return Default(found, f"fits with rows of {length:,} tokens, by estimate; {why}")
        if all(value is False for value in told.values()):
            return Default(1, "even one row is too large for this GPU, by estimate")
    return Default(4, "PEFT Studio's default; what fits the GPU is not known here")


def _accumulation(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    micro, whole = int(chosen["batch"]), global_batch(facts)
    steps = max(1, min(32, round(whole / micro)))
    return Default(steps, f"global batch {micro} x {steps} = {micro * steps}")


def steps(facts: Facts, chosen: Mapping[str, Any]) -> tuple[int, int] | None:
    """`(steps an epoch, steps in all)`; None where rows are unknown. With packing the sequences are guessed from bytes."""
    if facts.rows is None:
        return None
    rows = facts.rows - round(facts.rows * (facts.share or 0))
    if chosen.get("packing") and facts.usual:
        rows = math.ceil(rows * min(1.0, facts.usual / int(chosen["max_length"])))
    each = max(1, math.ceil(rows / (int(chosen["batch"]) * int(chosen["accumulation"]))))
    return each, max(1, math.ceil(each * float(chosen["epochs"])))


def _warmup(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    known = steps(facts, chosen)
    if known is None:
        return Default(0.05, "a share of all steps; PEFT Studio advises 5-10 %")
    share = 0.1 if known[1] < 100 else 0.05
    return Default(share, f"{share * 100:.0f} % of about {known[1]:,} steps; PEFT Studio advises 5-10 %")


def evaluation(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    """Steps between evaluations, which are those between checkpoints, too: about four an epoch, so that a plateau is
    seen, and two where much is held out, so that evaluating does not take longer than a sixth of the training (a forward pass is a
    third of a training step)."""
    known = steps(facts, chosen)
    if known is None:
        return Default(None, "")
    each, total = known
    times = 4 if (facts.share or 0.1) < 0.15 else 2
    nice = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 400, 500, 1000)
    steps_apart = next((n for n in nice if n >= 0.9 * each / times), nice[-1])
    steps_apart = min(steps_apart, each, max(1, total // 2))
    told = f"about {each:,} steps an epoch: {max(1, round(each / steps_apart))} looks at it each"
    return Default(steps_apart, told if times == 4 else f"{told}; more would take long, with so much held out")


def logging(facts: Facts, chosen: Mapping[str, Any]) -> Default:
    """Steps between log lines: ten, fewer where the run is short."""
    known = steps(facts, chosen)
    if known is None or known[1] >= 100:
        return Default(None, "")
    return Default(max(1, known[1] // 20), f"the run is short: about {known[1]:,} steps")


KNOBS: dict[str, Knob] = {
    "max_length": Knob("training.max_length", "tokens a row has at most", Range(16, 131072), _max_length, whole=True),
    "packing": Knob("training.packing", "short rows share a sequence", Range(), _packing, flag=True),
    "rank": Knob("peft.r", "size of the adapter", Range(4, 64), _rank, whole=True, methods=LORA_LIKE),
    "alpha": Knob("peft.lora_alpha", "the adapter counts alpha / rank", Range(1, 256), _alpha, methods=LORA_LIKE),
    "dropout": Knob(
        "peft.lora_dropout", "share of adapter inputs left out", Range(0, 0.1), _dropout, methods=LORA_LIKE
    ),
    "lr": Knob("training.learning_rate", "size of a step at its peak", Range(1e-6, 1e-2), _rate),
    "epochs": Knob("training.num_train_epochs", "passes over the data", Range(1, 10), _epochs),
    "batch": Knob("training.per_device_train_batch_size", "rows on the GPU at once", Range(1, 32), _batch, whole=True),
    "accumulation": Knob(
        "training.gradient_accumulation_steps", "batches that make a step", Range(1, 32), _accumulation, whole=True
    ),
    "warmup": Knob("training.warmup_steps", "steps up to the peak, or a share below 1", WARMUP, _warmup),
}
"""Name on the command line -> knob, in the order in which the defaults follow from one another."""


def knobs(method: str) -> dict[str, Knob]:
    """The knobs that a method has."""
    return {name: knob for name, knob in KNOBS.items() if not knob.methods or method in knob.methods}


def shown(value: Any) -> str:
    """A knob's value as people write it: `2e-4`, `16`, `yes`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{int(value)}" if value.is_integer() else number(value)
    return str(value)
