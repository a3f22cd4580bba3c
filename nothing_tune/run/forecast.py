"""The forecast of a recipe: gathers what the plan floor may not look at itself, the model's config, prices, and the machine."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import runs_root
from nothing_tune.data import files, hub, sources
from nothing_tune.data.duplicates import Seen
from nothing_tune.data.mixture import choose
from nothing_tune.data.rows import SHOWN, Ledger, stream, too_many
from nothing_tune.data.splits import Splitter
from nothing_tune.discovery import host_memory
from nothing_tune.plan import Plan
from nothing_tune.plan import forecast as forecasts
from nothing_tune.plan.forecast import Forecast, Machine
from nothing_tune.plan.memory import Estimate
from nothing_tune.plan.rows import COUNTED, GIVEN, Rows
from nothing_tune.recipe.providers import providers
from nothing_tune.run.architecture import REACH_S, config_of
from nothing_tune.run.missing import named
from nothing_tune.run.pace import pace

COUNTS_UP_TO = 32 << 20
"""Bytes of data that are read to count rows where nobody asked for more than a quick look."""


def forecast(
    plan: Plan,
    rows: Rows = Rows(),  # noqa: B008
    *,
    fetch: bool = True,
    simulated: Estimate | None = None,
    runs: Path | None = None,
) -> Forecast:
    """Looks at `plan` before it runs.

    Args:
        plan: The compiled recipe.
        rows: What is known of its rows.
        fetch: Whether config.json may be fetched from the hub where it is nowhere on this machine.
        simulated: The simulation of the longest batch, where one was run.
        runs: The folder of all runs, whose free space and pace count; None is the usual one.
    """
    config, source = config_of(plan, fetch)
    root = runs or runs_root()
    return forecasts.forecast(plan, rows, config, source, providers(), machine(root), simulated, pace(plan, root))


def machine(runs: Path) -> Machine:
    """What this machine has for a training whose runs lie in `runs`."""
    folder = runs.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return Machine(shutil.disk_usage(folder).free, _cpus(), host_memory()[1], time.strftime("%Y-%m-%d"))


def model_here(plan: Plan) -> bool:
    """Whether the model's tokenizer may be had: from a folder, the local cache, or a hub that can be reached."""
    name = str(plan.model.get("name_or_path") or "")
    if "${" in name or Path(name).expanduser().is_dir() or hub.cached_config(name) is not None:
        return True
    return not hub.offline() and hub.reachable(REACH_S)


def given(count: int, plan: Plan) -> Rows:
    """`count` training rows, as somebody said; a share that is evaluated comes on top of them."""
    share = plan.data.get("eval")
    held = round(count * share / (1 - share)) if isinstance(share, float) and 0 < share < 1 else None
    return Rows(GIVEN, train=count, eval=0 if not share else held)


def counted(plan: Plan, limit: int | None = None) -> Rows:
    """The rows that can be counted without a tokenizer: read, repeated ones left out, a share held out. Unknown where files
    are not on this machine, or have more than `limit` bytes.

    What only tokens can tell (rows too long, or with nothing to learn), near duplicates and rows of the evaluation among the
    training rows still count.

    Raises:
        UsageError: A source cannot be read, or its format is not known.
    """
    data = plan.data
    if not _readable(plan, "train", limit):
        return Rows()
    share = data.get("eval")
    held_out = share if isinstance(share, float) and plan.training.get("eval_strategy", "no") != "no" else 0.0
    splitter = Splitter(held_out, data["seed"], data.get("group_by"), data.get("stratify_by"))
    seen = Seen() if data.get("dedupe") != "none" else None
    opened = sources.open_all(data["train"], data)
    ledger, train, held = Ledger(), [0] * len(opened), 0
    for number, one in enumerate(opened):
        for row in stream([one], data, ledger):
            if seen is None or seen.add(row) is None:
                away = splitter.side(row) == "eval"
                held += away
                train[number] += not away
    used = len(choose(train, [one.source for one in opened], data["seed"])) if len(opened) > 1 else train[0]
    evaluated: int | None = held
    if share and not isinstance(share, float):
        evaluated = _count(plan, "eval") if _readable(plan, "eval", limit) else None
    return Rows(COUNTED, train=min(used, data.get("max_samples") or used), eval=evaluated, findings=_bad(ledger, data))


def _bad(ledger: Ledger, data: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """A finding where more rows cannot be read than `data.max_bad_rows` allows."""
    named = ledger.bad_rows[:SHOWN]
    problem = too_many(ledger.bad, ledger.read, float(data.get("max_bad_rows") or 0.0), len(named))
    if problem is None:
        return ()
    places = [place for place, _ in ledger.bad_rows]
    told = {"severity": "error", "what": problem.what, "hint": problem.hint, "key": problem.key}
    return ({**told, "rows": places, "named": [list(one) for one in named]},)


def _count(plan: Plan, key: str) -> int:
    ledger = Ledger()
    return sum(1 for _ in stream(sources.open_all(plan.data[key], plan.data, f"data.{key}"), plan.data, ledger))


def _readable(plan: Plan, key: str, limit: int | None) -> bool:
    """Whether all sources of `data.train` or `data.eval` are files on this machine, and not more than `limit` bytes."""
    found = named(plan, key)
    if not found or "${" in str(plan.data[key]) or not all(sources.is_file(one.name) for one in found):
        return False
    paths = [path for one in found for path in files.resolve(one.name)]
    return bool(paths) and (limit is None or sum(path.stat().st_size for path in paths) <= limit)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
