"""The questions of `tune init`: what each asks, offers and explains, its default with the reason, and how an answer is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.init import data as rows
from nothing_tune.cli.init import fit, look, offers
from nothing_tune.cli.init.state import State
from nothing_tune.errors import PlanError, Problem, UsageError
from nothing_tune.recipe import defaults

Default = tuple[str, str]
"""What Enter takes, as one would type it, and why; an empty text where there is none."""


@dataclass(frozen=True)
class Question:
    """One question. `name` is its option without dashes.

    Attributes:
        asks: The question itself.
        read: The answer's value from its text; raises a TuneError that says what is wrong.
        default: What Enter takes, and why.
        choices: Lines that are shown below the question.
        about: What `?` explains, paragraphs of plain text.
        words: What Tab completes.
        told: The answer on the review page.
        when: Whether it is asked at all.
        heading: What it is called on the review page.
    """

    name: str
    asks: str
    read: Callable[[State, str], Any]
    default: Callable[[State], Default]
    told: Callable[[State], str]
    about: Callable[[State], Sequence[str]] = lambda state: ()
    choices: Callable[[State], Sequence[str]] = lambda state: ()
    words: Callable[[State], Sequence[str]] = lambda state: ()
    when: Callable[[State], bool] = lambda state: True
    heading: str = ""


def _model(state: State, text: str) -> look.Model:
    found = look.model(text)
    gpu = _named_gpu(state)
    if gpu and (problem := _too_large(found, gpu)):
        raise PlanError(problem)
    return found


def _named_gpu(state: State) -> look.Gpu | None:
    """The GPU that was given before it is asked for; None where there is none, or it is told later what is wrong with it."""
    text = state.given.get("gpu")
    return console.outcome(lambda: look.gpu(text))[0] if text else None


def _too_large(model: look.Model, gpu: look.Gpu) -> Problem | None:
    """What is said where the model does not fit the GPU even with the method that takes the least memory."""
    problem = fit.refusal(model, "qlora", gpu)
    if problem is None:
        return None
    larger = fit.smallest(model, "qlora")
    cures = [f"{larger.name} ({fit.room(larger)}) is the smallest GPU for it"] if larger else []
    cures += [f"{m} fits {gpu.name}" for m in offers.fitting_models(gpu)[:1]]
    return Problem(f"{problem.what}", hint="; ".join(cures) or problem.hint)


def _model_default(state: State) -> Default:
    gpu = _named_gpu(state) or look.gpu("here")
    for name in offers.fitting_models(gpu) if gpu.kind == "cuda" else ():
        return name, f"answers in turns, needs no token, and fits {gpu.name} in 4 bits"
    return "qwen2.5-3b-instruct", "answers in turns, needs no token, and in 4 bits fits a small GPU"


def _gpu(state: State, text: str) -> look.Gpu:
    if told := offers.provider(text):
        raise UsageError(told)
    found = look.gpu(text)
    method = state.given.get("method")
    problem = fit.refusal(state.model, method, found) if method in offers.methods() else _too_large(state.model, found)
    if problem:
        raise PlanError(problem)
    return found


def _gpu_default(state: State) -> Default:
    here = look.gpu("here")
    if here.kind == "cuda":
        told = here.facts.get("vendor_names") or [here.name]
        if fit.refusal(state.model, "qlora", here) is None:
            return here.name, f"this machine has it ({told[0]})"
    size = state.model.parameters_b
    if here.kind != "cuda" and size is not None and size < 0.2:
        return here.name, f"a model of {state.model.size} trains on this machine"
    least = fit.smallest(state.model, "qlora")
    why = "no GPU was found here" if here.kind == "cpu" else f"{here.name} here is not enough"
    if least is None:
        return "l4", f"{why}; the size of the model is not known, and an L4 is a usual start"
    need = fit.needs(state.model, "qlora", least)
    return least.name, f"{why}; the smallest that fits it in 4 bits, which need {need.told if need else 'little'}"


def _method(state: State, text: str) -> str:
    from nothing_tune.recipe.library import find_named

    name = text.strip().lower().removeprefix("methods/")
    find_named("methods", name)
    if problem := fit.possible(name, state.gpu):
        raise UsageError(problem)
    if problem := fit.refusal(state.model, name, state.gpu):
        raise PlanError(problem)
    return name


def _method_default(state: State) -> Default:
    model, gpu = state.model, state.gpu
    if gpu.kind != "cuda":
        if gpu.kind == "cpu" and (model.parameters_b or 1) < 0.2:
            return "qlora", "4 bits work on a CPU, too, and this is what a GPU would do"
        return "lora", "a base that is not quantised trains anywhere"
    need = fit.needs(model, "lora", gpu, 4, 1024)
    if fit.fits(need, gpu) and need is not None and not need.rough:
        return (
            "lora",
            f"the base fits in 16 bits ({need.told} of {fit.room(gpu)}), which is faster than 4",
        )
    told = f"in 16 bits it would need {need.told}" if need else "the size of the model is not known"
    light = fit.needs(model, "qlora", gpu, 4, 1024)
    return "qlora", f"{told}; in 4 bits it needs {light.told}" if light and need else f"{told}; 4 bits need the least"


MANY_BAD = 0.1
"""Share of bad rows from which the file itself is wrong, or its columns are."""


def _data(state: State, text: str) -> rows.Data:
    return _usable(rows.look_at(text, state.given.get("speaker", ""), state.look))


def _usable(found: rows.Data) -> rows.Data:
    """`found`, unless so many of its rows are bad that leaving them out would hide what is wrong."""
    if found.bad > MANY_BAD * found.read:
        what = f"{found.bad:,} of {found.read:,} rows of {found.source} cannot be used, the first {found.first_bad}"
        raise PlanError(Problem(what, hint="tune data inspect says what is wrong with them"))
    return found


def _data_default(state: State) -> Default:
    found = [*rows.near_files(Path()), *rows.near_files(Path("data"))]
    own = [p for p in found if not re.search(r"(^|[._-])(eval|valid|validation|test|dev|prompts)\b", p.name)]
    if not own:
        return "", ""
    many = f"the first of {len(own)} data files" if len(own) > 1 else "the only data file"
    return str(own[0]), f"{many} in this folder and in data/"


def _speaker(state: State, text: str) -> str:
    known = {name.casefold(): name for name in state.data.speakers}
    found = known.get(text.strip().casefold())
    if found is None:
        raise UsageError(
            Problem(
                f"{text.strip()!r} speaks nowhere in {state.data.source}",
                hint=f"one of: {', '.join(state.data.speakers)}",
            )
        )
    return found


def _goal(state: State, text: str) -> str:
    from difflib import get_close_matches

    name = re.sub(r"[\s_]+", "-", text.strip().lower())
    if name not in defaults.GOALS:
        near = get_close_matches(name, defaults.GOALS, n=1, cutoff=0.5)
        cure = f"did you mean {near[0]}?" if near else f"one of: {', '.join(defaults.GOALS)}"
        raise UsageError(Problem(f"there is no goal {text.strip()!r}", hint=cure))
    if state.data.kind == "text" and name not in ("completion", "style"):
        raise UsageError(
            Problem(
                f"{name} learns answers, and {state.data.source} is plain text: nothing tells who asks and who answers",
                hint="completion or style; or data with turns, or with prompt and completion",
            )
        )
    return name


def _goal_default(state: State) -> Default:
    data = state.data
    if data.kind == "text":
        return "completion", "the rows are plain text"
    if data.tools >= 0.5:
        return "function-calling", f"{data.tools * 100:.0f} % of the rows have functions to call"
    if data.format == "transcript":
        return "style", "a chat log teaches how someone speaks"
    if data.turns >= 3.5:
        return "chat", f"a row has {data.turns:.1f} messages on average"
    if data.kind:
        return "instruction", "a row is one request and one answer"
    return "chat", "the most usual; the data was not looked at"


def _eval(state: State, text: str) -> float | str | None:
    word = text.strip().lower()
    if word in ("none", "no", "null", "0", "0 %", "0%"):
        return None
    number = re.fullmatch(r"(\d*\.?\d+)\s*(%?)", word)
    if number:
        share = float(number[1]) / (100 if number[2] or float(number[1]) >= 1 else 1)
        if not defaults.SHARES.holds(round(share, 6)):
            raise UsageError(
                Problem(
                    f"the share must be 10 % to 20 %, not {share * 100:g} %",
                    hint="PEFT Studio's range; or name a file of your own, or none",
                )
            )
        count = state.data.rows
        if count is not None and round(count * share) < 1:
            raise UsageError(Problem(f"{share * 100:g} % of {count} rows is none", hint="none, or a file of your own"))
        return round(share, 6)
    other = _usable(rows.look_at(text, state.given.get("speaker", ""), state.look))
    kinds = {other.kind, state.data.kind} - {""}
    if "text" in kinds and len(kinds) > 1:
        raise UsageError(
            Problem(
                f"{other.source} has rows of {other.format}, and the training data rows of {state.data.format}",
                hint="name data of the same format, or a share",
            )
        )
    return other.source


def _eval_default(state: State) -> Default:
    count = state.data.rows
    if count is not None and count < 10:
        return "none", f"{count} rows: too few to hold any out"
    if count is not None and count < 500:
        return "20 %", f"{count:,} rows: a tenth would be too few to tell anything"
    return "10 %", "usual; it tells when the model begins to learn by heart"


def _eval_told(state: State) -> str:
    value, count = state.values["eval"], state.data.rows
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return f"{value * 100:g} %" + (
        f", {'about ' if state.data.about else ''}{round(count * value):,} rows" if count else ""
    )


def _tracker(state: State, text: str) -> str:
    from difflib import get_close_matches

    name, known = text.strip().lower(), list(offers.TRACKERS)
    if name in ("no", ""):
        return "none"
    if name in known:
        return name
    near = get_close_matches(name, known, n=1, cutoff=0.3)
    raise UsageError(
        Problem(
            f"there is no tracker {text.strip()!r}",
            hint=f"did you mean {near[0]}?" if near else f"one of: {', '.join(known)}",
        )
    )


def _tracker_default(state: State) -> Default:
    if not offers.lacks("wandb"):
        return "wandb", "its key is on this machine"
    return "none", "no key of wandb is here; tune shows the run and keeps its events either way"


def _name(state: State, text: str) -> str:
    name = text.strip()
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name):
        raise UsageError(
            Problem(
                f"{name!r} is no name for a recipe", hint="lower-case letters, digits, dots, dashes and underscores"
            )
        )
    if state.out is None and not state.force and Path(f"{name}.yaml").exists():
        raise UsageError(
            Problem(f"there is a file {name}.yaml", hint="choose another name, or begin again with --force")
        )
    return name


def _name_default(state: State) -> Default:
    if state.out is not None and (own := offers.slug(state.out.stem)):
        return own, "as the file is called"
    source = state.data.source.rstrip("/").split(":")[0]
    stem = Path(source).name.split(".")[0] if not any(c in source for c in "*?[") else Path(source).parent.name
    model = state.model.layer.removeprefix("models/") or state.model.name.rstrip("/").rsplit("/", 1)[-1]
    name = offers.slug("-".join(p for p in (stem, model) if p))[:48].strip("-.") or "recipe"
    free, number = name, 1
    while Path(f"{free}.yaml").exists() and not state.force and state.out is None:
        number += 1
        free = f"{name}-{number}"
    return free, f"it is written to {free}.yaml" if state.out is None else "after data and model"


QUESTIONS: tuple[Question, ...] = (
    Question(
        "model", "Which model?", _model, _model_default, lambda s: f"{s.model.name}  ({s.model.told})",
        about=offers.about_models, choices=offers.models, words=lambda s: list(look.library_models()),
    ),
    Question(
        "gpu", "Where will it train?", _gpu, _gpu_default, lambda s: f"{s.gpu.name}  ({s.gpu.told})",
        about=offers.about_gpus, choices=offers.gpus, words=lambda s: ["here", *look.gpus()], heading="gpu",
    ),
    Question(
        "method", "Which method?", _method, _method_default, lambda s: f"{s.method}  ({offers.METHODS.get(s.method, ('', ''))[0]})",
        about=offers.about_methods, choices=offers.method_lines, words=lambda s: offers.methods(),
    ),
    Question(
        "data", "Which data?", _data, _data_default, lambda s: f"{s.data.source}  ({s.data.told})",
        about=offers.about_data, choices=offers.data_files,
        words=lambda s: [str(p) for p in (*rows.near_files(Path()), *rows.near_files(Path("data")))],
    ),
    Question(
        "speaker", "Whose lines does the model learn?", _speaker,
        lambda s: (s.data.speakers[0], "speaks the most") if s.data.speakers else ("", ""), lambda s: str(s.values["speaker"]),
        about=lambda s: ("In a chat log nobody is the assistant until one is named. The model learns to answer as this one does.",),
        choices=lambda s: [", ".join(s.data.speakers)], words=lambda s: s.data.speakers,
        when=lambda s: s.data.format == "transcript",
    ),
    Question(
        "goal", "What is it for?", _goal, _goal_default, lambda s: f"{s.values['goal']}  ({defaults.GOALS[s.values['goal']].title})",
        about=offers.about_goals, choices=offers.goals, words=lambda s: list(defaults.GOALS),
    ),
    Question(
        "eval", "How much of the data is held out for validation?", _eval, _eval_default, _eval_told,
        about=offers.about_eval, words=lambda s: ["10 %", "15 %", "20 %", "none"], heading="validation",
    ),
    Question(
        "tracker", "Where do the metrics go?", _tracker, _tracker_default, lambda s: str(s.values["tracker"]),
        about=offers.about_trackers, choices=offers.trackers, words=lambda s: list(offers.TRACKERS),
    ),
    Question(
        "name", "What is the recipe called?", _name, _name_default, lambda s: str(s.values["name"]),
        about=lambda s: ("The recipe, its runs and the tracker's project are called so.",),
    ),
)  # fmt: skip
"""All questions, in the order in which they are asked."""


USUAL = "that is the usual range; more in docs/init.md, and tune explain says what each value does"


def read_knob(name: str, text: str, called: str = "") -> Any:
    """The value of a knob from its text. `UsageError` for what is no such value or outside of the usual range.

    `called`: what messages call it, such as `--lr`; by default its name.
    """
    said = called or name.replace("_", " ")
    knob, word = defaults.KNOBS[name], re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.strip().lower())
    if knob.flag:
        if word in ("yes", "y", "true", "on", "1"):
            return True
        if word in ("no", "n", "false", "off", "0"):
            return False
        raise UsageError(Problem(f"{said} is yes or no, not {text.strip()!r}"))
    percent = re.fullmatch(r"(\d*\.?\d+)\s*%", word)
    try:
        value = float(percent[1]) / 100 if percent and not knob.whole else float(word)
    except ValueError:
        kind = "whole number" if knob.whole else "number"
        raise UsageError(Problem(f"{said} is a {kind}, not {text.strip()!r}", hint=f"{_span(name)}")) from None
    if not knob.range.holds(value):
        raise UsageError(Problem(f"{said} must be {_span(name)}, not {defaults.shown(value)}", hint=USUAL))
    if knob.whole and value != int(value):
        raise UsageError(Problem(f"{said} is a whole number, not {defaults.shown(value)}", hint=_span(name)))
    if name == "warmup" and value > 1 and value != int(value):
        raise UsageError(Problem(f"{said} is a share below 1 or a whole number of steps, not {word}"))
    return int(value) if knob.whole or (name in ("warmup", "epochs", "alpha") and value == int(value)) else value


def _span(name: str) -> str:
    """`4 to 64`."""
    low, high = (
        float(v if v is not None else 0) for v in (defaults.KNOBS[name].range.low, defaults.KNOBS[name].range.high)
    )
    return f"{defaults.shown(low)} to {defaults.shown(high)}"


def _source(name: str) -> str:
    from nothing_tune.recipe.ranges import ADVISED, STUDIO

    return f"the range of {STUDIO}" if defaults.KNOBS[name].key in ADVISED else ""


def about_knob(name: str) -> list[str]:
    """What `?` says of a knob: what it does, what its values do, and its range; `tune explain KEY` says it all."""
    from nothing_tune.recipe.guidance import guidance

    knob = defaults.KNOBS[name]
    said = guidance(knob.key)
    lines = [said.what if said and said.what else f"{knob.what[:1].upper()}{knob.what[1:]}."]
    for one in (*said.alternatives, *said.notes[:3]) if said else ():
        source = f" ({', '.join(one.names)})" if one.names else ""
        lines.append(f"{f'{one.value}: ' if one.value else ''}{one.text.rstrip('.')}{source}")
    if not knob.flag:
        source = _source(name)
        lines.append(f"From {_span(name)}{f', {source}' if source else ''}.")
    return [*lines, f"In the recipe it is {knob.key}; tune explain {knob.key} says more."]
