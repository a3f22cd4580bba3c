"""From answers to the recipe: its layers, its values with their reasons, its text, checked and written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nothing_tune.cli.init import by_bytes, fit, offers
from nothing_tune.cli.init.data import Data, look_at
from nothing_tune.cli.init.look import Gpu
from nothing_tune.cli.init.state import State, facts, knobs, steps
from nothing_tune.data.rows import enough
from nothing_tune.errors import PlanError, Problem, UsageError
from nothing_tune.plan.forecast import DOES_NOT_FIT, Forecast
from nothing_tune.recipe import compose, defaults
from nothing_tune.recipe.compose import Setting
from nothing_tune.recipe.model import lookup
from nothing_tune.recipe.reader import read_value

SCHEMAS = ("recipe.schema.json", "schema.json")
"""Names under which `tune schema` may have been written beside the recipe."""


@dataclass(frozen=True)
class Draft:
    """A recipe that is not written yet: its `text`, what it sets itself, and the layers."""

    text: str
    settings: tuple[Setting, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Settled:
    """The answers looked at as a recipe, before it is written.

    Attributes:
        recipe: The recipe.
        plan: Its plan.
        forecast: What the plan will do, with the rows as they were read.
        more: What the forecast made necessary: set beside the answers.
        warnings: What must be said of it.
    """

    recipe: Any
    plan: Any
    forecast: Forecast
    more: tuple[Setting, ...]
    warnings: tuple[Problem, ...]


ROUNDS = 3
"""How often what a forecast makes necessary is set and looked at anew."""


def settle(state: State) -> Settled:
    """Looks at the recipe as `tune plan` does, and sets what it says is necessary. Nothing is left on the disk.

    Raises:
        RecipeError: The recipe cannot be loaded.
        PlanError: It cannot train, and no setting would change that.
    """
    from nothing_tune.run.forecast import forecast

    more: tuple[Setting, ...] = ()
    with tempfile.TemporaryDirectory(prefix="tune-init-") as name:
        for turn in range(ROUNDS + 1):
            text = draft(state, Settled(None, None, None, more, ()), Path(name)).text  # type: ignore[arg-type]
            recipe, plan = load(state, text, Path(name))
            found = forecast(plan, by_bytes.rows(state.data, state.values["eval"], plan), fetch=False)
            wrong = [a for a in found.advice if a.severity == "error"]
            if not wrong:
                break
            if turn == ROUNDS or not all(a.changes for a in wrong):
                raise PlanError(*(Problem(a.what, a.key, hint=" ".join(a.changes) or a.why) for a in wrong))
            more += tuple(_change(word, a.why) for a in wrong for word in a.changes)
    return Settled(recipe, plan, found, more, tuple(_warnings(state, found)))


def _change(word: str, why: str) -> Setting:
    key, _, value = word.partition("=")
    return Setting(key, read_value(value), why)


def _read(state: State) -> Data:
    """The training data, with what is bad in an evaluation source of its own."""
    other = state.values["eval"]
    if not isinstance(other, str):
        return state.data
    return state.data.with_other(look_at(other, state.given.get("speaker", ""), state.look))


def _warnings(state: State, found: Forecast) -> Iterator[Problem]:
    data = _read(state)
    if data.bad:
        yield Problem(
            f"{data.told_bad} and will be left out, the first {data.first_bad}",
            "data.max_bad_rows",
            hint="tune data inspect names them; mend them, and take data.max_bad_rows out of the recipe",
            severity="warning",
        )
    memory = found.memory
    if memory and memory.usable and memory.verdict == DOES_NOT_FIT:
        needs = f"{memory.longest.peak / fit.GIB:.1f} GiB at its peak, and {memory.usable / fit.GIB:.1f} GiB are usable"
        hint = " ".join(memory.changes[0].words) if memory.changes else "tune plan --fits shows other GPUs"
        yield Problem(f"it does not fit {state.gpu.name}: {needs}", hint=hint, severity="warning")


def draft(state: State, settled: Settled, folder: Path | None = None) -> Draft:
    """The recipe of all answers, for a file in `folder` (None: that of `state.file`): relative paths are written relative to it."""
    beside = state.file.absolute().parent if folder is None else folder
    layers = (f"methods/{state.method}", *([state.model.layer] if state.model.layer else []))
    below = _below(layers, state.model.name, state.gpu)
    said = {one.key: one for one in _settings(state, beside, below)}
    for one in settled.more:
        said[one.key] = one
    own = compose.differing(list(said.values()), below)
    schema = next((name for name in SCHEMAS if (beside / name).is_file()), "") if folder is None else ""
    goal, data = state.values["goal"], state.data
    text = compose.text(
        str(state.values["name"]),
        layers,
        own,
        header=_header(state, settled.forecast),
        description=f"{goal} on {Path(data.source).name}; {_short(state)}, {state.method}, {state.gpu.name}",
        schema=schema,
    )
    return Draft(text, tuple(own), layers)


def load(state: State, text: str, folder: Path) -> tuple[Any, Any]:
    """`(recipe, plan)` of a text as if it were a file in `folder`; nothing of it stays there.

    Raises:
        RecipeError, PlanError: It is no recipe, or cannot be planned.
        StorageError: Nothing can be written to `folder`.
    """
    from nothing_tune.artifacts.files import write_text
    from nothing_tune.plan import make_plan
    from nothing_tune.recipe import load_recipe

    path = folder / f".{state.file.stem}.{os.getpid()}.yaml"
    try:
        write_text(path, text, durable=False)
        machine = state.gpu.machine
        recipe = load_recipe(path, gpu=state.gpu.name, machine=dict(machine) if machine else None)
        return recipe, make_plan(recipe)
    finally:
        path.unlink(missing_ok=True)


def write(state: State, settled: Settled) -> Draft:
    """Checks the recipe and writes it to `state.file`, whole or not at all.

    Raises:
        UsageError: The file is there, and is not to be replaced; or its folder is not.
        RecipeError, PlanError: The recipe cannot be loaded.
        StorageError: It cannot be written.
    """
    from nothing_tune.artifacts.files import write_text

    path = state.file
    check_file(path, state.force)
    made = draft(state, settled)
    load(state, made.text, path.absolute().parent)
    check_file(path, state.force)
    write_text(path, made.text)
    return made


def check_file(path: Path, force: bool) -> None:
    """Refuses a file that cannot be written, or is there and is not to be replaced."""
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(
            Problem(f"{path} is no name for a recipe", hint=f"recipes are YAML: {path.with_suffix('.yaml')}")
        )
    if path.is_dir():
        raise UsageError(Problem(f"{path} is a folder", hint="name a file that ends in .yaml"))
    if not path.absolute().parent.is_dir():
        raise UsageError(Problem(f"there is no folder {path.parent}", hint=f"mkdir -p {path.parent}"))
    if path.exists() and not force:
        raise UsageError(Problem(f"there is a file {path}", hint="name another one, or --force replaces it"))


@lru_cache(maxsize=8)
def _below(layers: tuple[str, ...], model: str, gpu: Gpu) -> dict[str, Any]:
    """What layers and GPU say together, below the recipe's own body."""
    from nothing_tune.recipe import load_recipe

    method, *models = layers
    more = [] if models else [f"model.name_or_path={compose.scalar(model)}"]
    recipe = load_recipe(
        method,
        gpu=gpu.name,
        with_=tuple(models),
        overrides=["data.train=rows.jsonl", "data.eval=0.1", "name=recipe", *more],
        machine=dict(gpu.machine) if gpu.machine else None,
    )
    return recipe.values


def _settings(state: State, folder: Path, below: dict[str, Any]) -> list[Setting]:
    """Every value that the answers decide, in the order of the file."""
    from nothing_tune.data import sources

    model, data, goal, share = state.model, state.data, str(state.values["goal"]), state.values["eval"]
    known, chosen = facts(state), knobs(state)
    values = {name: one.value for name, one in chosen.items()}

    def placed(name: str) -> str:
        if not sources.is_file(name) or os.path.isabs(os.path.expanduser(name)):
            return name
        near = os.path.relpath(name, folder)
        return near if folder == Path.cwd() or not near.startswith("../..") else os.path.abspath(name)

    out = []
    if not model.layer:
        name = placed(model.name) if Path(model.name).expanduser().is_dir() else model.name
        out.append(Setting("model.name_or_path", name, model.told, kept=True))
    needed = fit.musts(model, state.method)
    out += [m for m in needed if m.key.startswith("model.") and lookup(below, m.key) != "flash_attention_2"]
    out.append(Setting("data.train", placed(data.source), data.told, kept=True))
    read = _read(state)
    if read.bad:
        left_out = f"{read.told_bad} and left out, the first {read.first_bad}"
        out.append(Setting("data.max_bad_rows", _share_of_bad(read), left_out))
    if data.columns:
        out.append(Setting("data.columns", dict(data.columns), "the format's column: the file's"))
    if data.format == "transcript":
        out.append(Setting("data.format", "transcript", "a chat log: who speaks, and what is said"))
        out.append(Setting("data.transcript.speaker", state.values["speaker"], "whose lines are learned"))
    if isinstance(share, float):
        out.append(Setting("data.eval", share, _held_out(state), kept=True))
    else:
        value = None if share is None else placed(share)
        out.append(
            Setting("data.eval", value, "nothing is held out" if share is None else "rows of their own", kept=True)
        )
    if model.template is False and data.kind == "messages":
        out.append(Setting("data.chat_template", "chatml", "the model has no template of its own"))
    for name in ("rank", "alpha", "dropout"):
        if name in chosen:
            out.append(Setting(defaults.KNOBS[name].key, values[name], _why(state, name, chosen[name])))
    out += [m for m in needed if m.key == "peft.target_modules"]
    for name in ("max_length", "packing"):
        out.append(Setting(defaults.KNOBS[name].key, values[name], _why(state, name, chosen[name])))
    if goal == "completion" and data.kind in ("messages", "prompt-completion"):
        key = "assistant_only_loss" if data.kind == "messages" else "completion_only_loss"
        out.append(Setting(f"training.{key}", False, "completion: every word is learned, not the answers alone"))
    for name in ("batch", "accumulation"):
        out.append(Setting(defaults.KNOBS[name].key, values[name], _why(state, name, chosen[name])))
    out.append(Setting("training.per_device_eval_batch_size", values["batch"], "as the training has"))
    for name in ("epochs", "lr", "warmup"):
        out.append(Setting(defaults.KNOBS[name].key, values[name], _why(state, name, chosen[name])))
    every = defaults.evaluation(known, values)
    if share is None:
        out.append(Setting("training.eval_strategy", "no", "there is nothing to evaluate on"))
        out.append(Setting("training.load_best_model_at_end", False, "without evaluation there is no best"))
    elif every.value is not None:
        out.append(Setting("training.eval_steps", every.value, every.why))
    if every.value is not None:
        out.append(
            Setting("training.save_steps", every.value, "with each evaluation" if share is not None else every.why)
        )
    logged = defaults.logging(known, values)
    if logged.value is not None:
        out.append(Setting("training.logging_steps", logged.value, logged.why))
    out.append(Setting("tracking.tracker", state.values["tracker"], offers.TRACKERS[state.values["tracker"]]))
    if state.values["tracker"] != "none":
        out.append(Setting("tracking.project", state.values["name"], "the recipe's name"))
    return out


def _share_of_bad(data: Data) -> float:
    """`data.max_bad_rows` that lets a training start; half as much again where only the first rows were read."""
    share = float(enough(data.bad, data.read))
    return min(1.0, round(1.5 * share, 4)) if data.about else share


def _held_out(state: State) -> str:
    rows = state.data.rows
    told = "this share of the rows is held out"
    return (
        told
        if rows is None
        else f"{told}: {'about ' if state.data.about else ''}{round(rows * state.values['eval']):,}"
    )


def _why(state: State, name: str, one: defaults.Default) -> str:
    return defaults.KNOBS[name].what if name in state.given else one.why


def _short(state: State) -> str:
    return state.model.layer.removeprefix("models/") or state.model.name.rstrip("/").rsplit("/", 1)[-1]


def _rough(state: State) -> fit.Need | None:
    """Memory where the model's architecture is not known, but its size."""
    chosen = knobs(state)
    rows, length = int(chosen["batch"].value), int(chosen["max_length"].value)
    need = fit.needs(state.model, state.method, state.gpu, rows, length)
    return need if need and need.rough else None


def _header(state: State, found: Forecast | None) -> list[str]:
    """The comment at the top: what it is, how to run it, what it needs."""
    model, gpu, data = state.model, state.gpu, state.data
    file, flag = str(state.file), "" if gpu.here else f" --gpu {gpu.name}"
    words = [f"tune plan {file}{flag}", f"tune train {file}{flag} --rehearse", f"tune train {file}{flag}"]
    left = max(len(w) for w in words) + 2
    need = []
    if gpu.kind == "cuda":
        need.append(f"{gpu.name} ({gpu.told})")
        if found and found.memory and found.memory.usable:
            peak, room = found.memory.longest.peak / fit.GIB, found.memory.usable / fit.GIB
            need[-1] += f", {peak:.1f} GiB of its {room:.1f} GiB by estimate"
        elif took := _rough(state):
            need[-1] += f", {took.told} of it by a rule of thumb"
    if model.gated:
        need.append("access to the gated model (accept its terms, then `hf auth login` or HF_TOKEN)")
    if model.gated is None and not Path(model.name).expanduser().is_dir():
        need.append("a network for the model, and a token where it is gated")
    if state.values["tracker"] == "wandb":
        need.append("a wandb key")
    total = steps(state, knobs(state))
    lines = [
        f"{state.values['name']}: {state.values['goal']} on {data.source}; {_short(state)}, {state.method}.",
        "",
        f"  plan      {words[0].ljust(left)}  steps, memory, time, cost and advice",
        f"  rehearse  {words[1].ljust(left)}  the whole way in a minute, on this machine",
        f"  run       {words[2].ljust(left)}" + (f"  about {total[1]:,} steps" if total else ""),
    ]
    for number, each in enumerate(need):
        lines.append(f"  {'needs' if not number else '     '}     {each}{';' if number < len(need) - 1 else ''}")
    return [
        *lines,
        "",
        "Written by tune init. Each comment is the reason for its value. All other values are in the layers:",
        f"tune show-config {file}{flag}",
    ]
