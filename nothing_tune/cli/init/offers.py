"""What `tune init` offers below its questions, and what it explains: models, GPUs, methods, data, goals, trackers."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from nothing_tune.cli import console
from nothing_tune.cli.init import fit, look
from nothing_tune.cli.init.data import near_files
from nothing_tune.errors import Problem
from nothing_tune.recipe import defaults

if TYPE_CHECKING:
    from nothing_tune.cli.init.state import State

METHODS: dict[str, tuple[str, str]] = {
    "qlora": ("LoRA on a base in 4 bits", "where memory is short"),
    "lora": ("LoRA on a base in 16 bits", "where the base fits: faster steps"),
    "dora": ("LoRA, size and direction apart", "a little better than LoRA, slower"),
    "rslora": ("LoRA, steady at high ranks", "much to learn, ranks above 16"),
    "pissa": ("LoRA from the main directions", "learns faster from the start"),
    "olora": ("LoRA from a QR decomposition", "as pissa, begins sooner"),
    "loftq": ("LoRA that mends 4-bit rounding", "adapters for a 4-bit base; CUDA"),
    "vera": ("two trained vectors a layer", "many tiny adapters for one base"),
    "ia3": ("one trained vector a layer", "few rows, Llama-like models"),
    "full": ("every weight trains", "much data, a large GPU"),
}
"""Method -> what it is, and when to take it; one that is not here is told by its layer's first line."""
TRACKERS = {
    "none": "tune shows the run and keeps its events",
    "tensorboard": "files on this disk; tensorboard --logdir shows them",
    "wandb": "Weights & Biases: a page in the browser, for a team",
}


def _columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Aligned columns without a head; the first is a name that can be typed."""
    paint, columns = console.ink(), console.width()
    if not rows:
        return []
    wide = sum(max(len(row[i]) for row in rows) for i in range(len(rows[0]))) + 2 * len(rows[0])
    if columns and wide > columns:
        return [line for row in rows for line in _stacked(row, columns)]
    _, *lines = console.table(
        [""] * len(rows[0]),
        rows,
        right=right,
        indent=2,
        paint=lambda column, cell, padded: (
            paint.key(padded) if column == 0 else paint.dim(padded) if column else padded
        ),
    )
    return [f"  {_bare(line)}" for line in lines]


def _stacked(row: Sequence[str], columns: int) -> list[str]:
    """A row where the terminal is too narrow for columns: the name, and all else wrapped under it."""
    paint, said = console.ink(), "; ".join(filter(None, row[1:]))
    below = textwrap.wrap(said, max(columns - 6, 20), break_on_hyphens=False)
    return [f"  {paint.key(row[0])}", *(f"      {paint.dim(line)}" for line in below)]


def _bare(line: str) -> str:
    """A line without the blanks at its end, which may stand before the code that ends a colour."""
    return re.sub(r" +((?:\x1b\[[0-9;]*m)*)$", r"\1", line)


def models(state: State) -> list[str]:
    """The models of the library, the small ones first."""
    known = sorted(look.library_models().items(), key=lambda pair: (pair[1].parameters_b or 0, pair[0]))
    rows = [(name, m.size, m.license, "gated" if m.gated else "") for name, m in known]
    return [*_columns(rows, right=(1,)), "  or any other: a hub id ORG/NAME, or a folder with a config.json"]


def about_models(state: State) -> list[str]:
    """What `?` says of models."""
    return [
        "Begin small: a model of 1 to 4 B learns in an hour what shows whether the data is right. A larger one comes after.",
        "An instruct or chat model already answers in turns; a base model only goes on with text, and learns turns from the data.",
        "Memory: about 2 GiB a billion parameters in 16 bits, 0.7 GiB in 4 bits, and the training on top of it.",
        "Gated: accept the terms on the model's page, then `hf auth login`. The licence says what you may do with the result.",
    ]


@lru_cache(maxsize=4)
def fitting_models(gpu: look.Gpu) -> tuple[str, ...]:
    """Models of the library that answer in turns, need no token and fit a GPU in 4 bits, the largest first."""
    open_ = {
        n: m for n, m in look.library_models().items() if m.template and not m.gated and (m.parameters_b or 0) > 0.1
    }
    found = [n for n, m in open_.items() if fit.fits(fit.needs(m, "qlora", gpu), gpu)]
    return tuple(sorted(found, key=lambda n: -(open_[n].parameters_b or 0)))


@lru_cache(maxsize=1)
def prices() -> dict[str, tuple[float, str]]:
    """GPU -> the lowest price in dollars an hour, and whose it is."""
    from nothing_tune.recipe.providers import providers

    out: dict[str, tuple[float, str]] = {}
    for one in providers():
        for price in one.prices:
            if price.usd_per_hour > 0 and price.usd_per_hour < out.get(price.gpu, (float("inf"), ""))[0]:
                out[price.gpu] = (price.usd_per_hour, one.title)
    return out


def provider(text: str) -> Problem | None:
    """What is said when a provider is named in place of a GPU: the GPUs that it lends; None where `text` is none."""
    from nothing_tune.recipe.providers import providers

    word = re.sub(r"[^a-z0-9]", "", text.lower())
    for one in providers():
        if word and word in (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (one.name, one.title)):
            lowest: dict[str, float] = {}
            for price in one.prices:
                if price.gpu in look.gpus() and price.usd_per_hour > 0:
                    lowest[price.gpu] = min(price.usd_per_hour, lowest.get(price.gpu, price.usd_per_hour))
            told = ", ".join(f"{g} ${p:.2f}" for g, p in sorted(lowest.items(), key=lambda pair: pair[1]))
            return Problem(
                f"{one.title} lends GPUs by the hour: {told or 'none that the library knows'}", hint="name the GPU"
            )
    return None


def gpus(state: State) -> list[str]:
    """This machine's GPU, and those of the library that the model fits on."""
    rows, small = [], []
    for gpu in look.gpus().values():
        if gpu.name in ("cuda", "mps", "cpu") and not gpu.here:
            continue
        least = fit.fits(fit.needs(state.model, "qlora", gpu), gpu)
        if least is False:
            small.append(gpu.name)
            if not gpu.here:
                continue
        half = fit.fits(fit.needs(state.model, "lora", gpu), gpu)
        takes = "4 or 16 bits" if half else "4 bits" if least else "too small" if least is False else ""
        price = prices().get(gpu.name)
        rows.append(
            (
                gpu.name,
                fit.room(gpu),
                takes,
                f"from ${price[0]:.2f}/h" if price else "",
                "this machine" if gpu.here else price[1] if price else "",
            )
        )
    lines = _columns(rows, right=(1,))
    return [*lines, f"  too small for it: {', '.join(small)}"] if small and len(small) < 9 else lines


def about_gpus(state: State) -> list[str]:
    """What `?` says of GPUs."""
    return [
        "`here` is this machine's GPU. Any other is one that you will rent or log in to: the recipe is written for it.",
        "4 or 16 bits: how the model's weights fit with one row of 1,024 tokens; the review shows the real estimate.",
        "The name of a provider, such as modal or runpod, shows what it lends. tune list gpus has the facts of each GPU.",
        "A T4, V100 or older has no bf16: training runs in fp16 there, which needs a little more care.",
    ]


def methods() -> list[str]:
    """Names of the methods, the usual ones first."""
    from nothing_tune.recipe.library import names

    known = names("methods")
    return [*(m for m in METHODS if m in known), *(m for m in known if m not in METHODS)]


def method_lines(state: State) -> list[str]:
    """The methods with what each needs on the chosen GPU."""
    rows: list[tuple[str, ...]] = []
    for name in methods():
        what, when = METHODS.get(name, (_first_comment(name), ""))
        need = fit.needs(state.model, name, state.gpu, 4, 1024)
        takes = need.told if need else ""
        if fit.possible(name, state.gpu):
            takes = "not here"
        elif fit.fits(fit.needs(state.model, name, state.gpu), state.gpu) is False:
            when = f"too much for {state.gpu.name}"
        rows.append((name, takes, what, when))
    if not any(takes for _, takes, _, _ in rows):
        rows = [(name, what, when) for name, _, what, when in rows]
    if len(rows[0]) != 4:
        return _columns(rows)
    return [
        *_columns(rows, right=(1,)),
        "  memory with four rows of 1,024 tokens at once; the review tells it for yours",
    ]


def _first_comment(name: str) -> str:
    from nothing_tune.recipe.library import library_root

    for line in (library_root() / "methods" / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        text = line.lstrip("# ").strip()
        if line.startswith("#") and not text.startswith("yaml-language-server"):
            return text
    return ""


def about_methods(state: State) -> list[str]:
    """What `?` says of methods."""
    return [f"{name}: {what}; {when}" for name, (what, when) in METHODS.items() if name in methods()]


def data_files(state: State) -> list[str]:
    """Data files that lie here."""
    from pathlib import Path

    found = [*near_files(Path()), *near_files(Path("data"))]
    paint = console.ink()
    lines = _columns([(str(p), console.size(p.stat().st_size)) for p in found[:8]], right=(1,))
    lines += [f"  {paint.dim(f'and {len(found) - 8} more')}"] if len(found) > 8 else []
    return lines or ["  a file, a folder, a pattern such as 'data/*.jsonl', or a hub id ORG/NAME:SPLIT"]


def about_data(state: State) -> list[str]:
    """What `?` says of data."""
    return [
        "JSON lines, JSON, CSV, TSV, parquet or text; the rows may be messages, prompt and completion, alpaca, sharegpt, glaive, text.",
        "Columns that are called otherwise are named behind the file: rows.csv prompt=question completion=reply",
        "A hundred good rows teach more than a thousand poor ones; repeated rows are left out when training begins.",
        "Only the first rows are read now. tune data inspect FILE tells everything.",
    ]


def goals(state: State) -> list[str]:
    """The goals."""
    return _columns([(name, goal.title, goal.when) for name, goal in defaults.GOALS.items()])


def about_goals(state: State) -> list[str]:
    """What `?` says of goals."""
    return [
        "The goal chooses what is learned (answers alone, or all words), how long rows may be, packing, and the adapter's rank.",
        "chat, instruction, function-calling and style learn the answers alone; completion learns every word.",
    ]


def about_eval(state: State) -> list[str]:
    """What `?` says of validation."""
    return [
        "Rows that are held out tell when the model begins to learn the others by heart: then the loss on them rises.",
        "10 to 20 % is usual. A file of your own is better where rows repeat each other: name it. `none` trains blind.",
        "The same rows are held out every time (data.split_seed), and none of them is trained on.",
    ]


def lacks(tracker: str) -> str:
    """What a tracker lacks on this machine; empty where it can be used."""
    found: list[Problem] = import_module(f"nothing_tune.trackers.{tracker}").check({"tracker": tracker}, os.environ)
    return found[0].what.partition(", but ")[2] or found[0].what if found else ""


def trackers(state: State) -> list[str]:
    """The trackers, and what each lacks here."""
    return _columns([(name, what, lacks(name)) for name, what in TRACKERS.items()])


def about_trackers(state: State) -> list[str]:
    """What `?` says of trackers."""
    return [
        "A tracker draws the curves of several runs over each other. A run never fails because of one.",
        "Whatever is chosen, tune keeps all numbers in the run's folder; tune runs sync sends them later.",
    ]


def slug(text: str) -> str:
    """`text` as a recipe's name: lower case, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
