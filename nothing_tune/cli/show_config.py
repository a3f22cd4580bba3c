"""`tune show-config`: the resolved recipe as YAML, where each value comes from, and how two variants differ."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options, yaml_text
from nothing_tune.cli.help import Command
from nothing_tune.cli.origins import full, origin_json, origin_text
from nothing_tune.errors import UsageError

EXAMPLES = (
    ("tune show-config --gpu l4", "the base QLoRA recipe on an L4"),
    ("tune show-config nothing-gpt --gpu l4 --why", "each value with its origin"),
    ("tune show-config nothing-gpt --why training.learning_rate", "one value in full"),
    ("tune show-config nothing-gpt --gpu l4 --diff t4", "what another GPU changes"),
    ("tune show-config marco --compiled", "the arguments that the engine builds its objects from"),
    ("tune show-config quickstart training.seed=1 --json", "for a program"),
)
EXITS = (0, 2, 3)
SECTIONS = (
    "name",
    "description",
    "model",
    "data",
    "generate",
    "quantization",
    "peft",
    "training",
    "tracking",
    "monitor",
    "checkpoint",
)
"""Order in which the sections are shown; others follow, the facts of the GPU last."""
MOST_VALUE_COLUMNS = 48
"""Origins start at this column at the latest."""


class ShowConfig(Command):
    """`--why=KEY` is the same as `--why KEY`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Splits `--why=KEY`, then parses as usual."""
        split = [part for a in args for part in (["--why", a[6:]] if a.startswith("--why=") else [a])]
        return super().parse_args(ctx, split)


COMMAND_CLASS = ShowConfig


@dataclass(frozen=True)
class Variant:
    """A recipe resolved in one way: the words that name it, the recipe and its plan."""

    words: str
    recipe: Any
    plan: Any


def command(
    words: options.Words = None,
    gpu: options.Gpu = None,
    scenario: options.Scenario = None,
    with_: options.With = None,
    unset: options.Unset = None,
    why: Annotated[
        bool,
        typer.Option(
            "--why",
            help="Say beside each value where it comes from and what it shadowed. `--why KEY` tells all about one value.",
        ),
    ] = False,
    diff: Annotated[
        str | None,
        typer.Option(
            "--diff",
            metavar="OTHER",
            help="Show only what differs in OTHER: another GPU, scenario or recipe.",
            autocompletion=options.complete_words,
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compiled", help="Show the arguments of SFTConfig, the PEFT config, BitsAndBytesConfig and the model."
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Resolves the recipe and shows it as asked."""
    keys, rest = _keys(words or []) if why else ([], words)
    name, overrides = options.split_words(rest)
    chosen = {"gpu": gpu, "scenario": scenario, "with_": with_, "unset": unset, "overrides": overrides}
    variant = _resolve(name, **chosen)
    if diff is not None:
        _show_diff(variant, _other(diff, name, chosen), json)
    elif compiled:
        _show_compiled(variant, json)
    elif keys:
        _show_keys(variant, keys, json)
    elif json:
        data: dict[str, Any] = {"values": variant.plan.values}
        if why:
            data["why"] = {key: origin_json(variant, key) for key in _leaves(variant.plan.values)}
        console.out_json(data)
    else:
        console.out(*_head(variant), *_body(variant, variant.plan.values, why))
        sys.stdout.flush()
        console.show_problems(variant.recipe.advice)


def _resolve(name: str | Path | None, **chosen: Any) -> Variant:
    from nothing_tune.plan import make_plan

    recipe = options.load(name, **chosen)
    words = options.command_words(
        name, gpu=chosen["gpu"], scenario=chosen["scenario"], with_=chosen["with_"], overrides=chosen["overrides"]
    )
    plan = make_plan(recipe)
    return Variant(words, recipe, replace(plan, values=_ordered(plan.values)))


def _ordered(values: dict[str, Any]) -> dict[str, Any]:
    """The same values with their sections in the order in which one reads them."""
    first = [key for key in SECTIONS if key in values]
    rest = [key for key in values if key not in SECTIONS and key != "gpu"]
    return {key: values[key] for key in [*first, *rest, *(["gpu"] if "gpu" in values else [])]}


def _keys(words: list[str]) -> tuple[list[str], list[str]]:
    """`(keys, other words)`: with `--why`, every word but a recipe and overrides is a key of which to tell all."""
    keys: list[str] = []
    rest: list[str] = []
    recipe = False
    for word in words:
        if options.is_override(word):
            rest.append(word)
        elif (word.split(".")[0] in (*SECTIONS, "gpu") and not Path(word).is_file()) or recipe:
            keys.append(word)
        else:
            recipe = True
            rest.append(word)
    return keys, rest


def _head(variant: Variant) -> list[str]:
    paint = console.ink()
    layers = " · ".join(layer.name for layer in variant.recipe.layers)
    lines = [f"# {variant.words}", f"# layers: {layers}", f"# gpu: {variant.plan.gpu.get('name', 'cpu')}"]
    return [*(paint.dim(console.cut(line, console.width())) for line in lines), ""]


def _body(variant: Variant, values: dict[str, Any], why: bool, prefix: str = "") -> list[str]:
    paint, columns = console.ink(), console.width()
    rows = yaml_text.lines(values, prefix)
    if not why:
        return [row.coloured(paint) for row in rows]
    room = min(max((len(r.plain()) for r in rows if r.key), default=0), MOST_VALUE_COLUMNS)
    out = []
    for row in rows:
        line, used = row.coloured(paint), len(row.plain())
        reason = origin_text(variant, row.key) if row.key else ""
        if reason:
            pad = max(room - used, 0) + 2
            left = None if columns is None else columns - used - pad
            if left is None or left > 8:
                line += " " * pad + paint.dim(console.cut(f"# {reason}", left))
        out.append(line)
    return out


def _leaves(values: dict[str, Any]) -> dict[str, Any]:
    from nothing_tune.recipe.model import leaves

    return leaves(values)


def _show_keys(variant: Variant, keys: list[str], json: bool) -> None:
    """All about some values; a section shows its values with their origins."""
    from nothing_tune.recipe.model import lookup

    known = _leaves(variant.plan.values)
    missing = object()
    answers: dict[str, Any] = {}
    for index, key in enumerate(keys):
        value = lookup(variant.plan.values, key, missing)
        if value is missing:
            near = get_close_matches(key, known, n=2, cutoff=0.75)
            hint = f"did you mean {' or '.join(near)}?" if near else f"tune show-config {variant.words} --why lists all"
            raise UsageError(f"{variant.words} has no value {key}", hint=hint)
        if json:
            below = [k for k in known if k == key or k.startswith(f"{key}.")]
            answers |= {k: {"value": known[k], **origin_json(variant, k)} for k in below}
            continue
        if index:
            console.out("")
        if isinstance(value, dict) and value:
            nested: Any = value
            for part in reversed(key.split(".")):
                nested = {part: nested}
            console.out(*_body(variant, nested, True))
        else:
            console.out(*full(variant, key, value))
    if json:
        console.out_json(answers)


def _other(word: str, name: str | None, chosen: dict[str, Any]) -> Variant:
    """The variant that `--diff OTHER` means: the same recipe on another GPU or scenario, else another recipe."""
    from nothing_tune.recipe.library import find_recipe, names

    if word in names("gpus"):
        return _resolve(name, **{**chosen, "gpu": word})
    if word in names("scenarios"):
        return _resolve(name, **{**chosen, "scenario": word})
    _, error = console.outcome(lambda: find_recipe(word))
    if error is not None:
        known = [*names("gpus"), *names("scenarios"), *names("recipes")]
        near = get_close_matches(word, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "tune list shows all GPUs, scenarios and recipes"
        raise UsageError(f"--diff {word}: no GPU, scenario or recipe of that name", hint=hint)
    return _resolve(word, **chosen)


def _show_diff(one: Variant, two: Variant, json: bool) -> None:
    """Both values and both origins of what differs; on the screen without the sources of the GPUs' facts."""
    a, b = _leaves(one.plan.values), _leaves(two.plan.values)
    gone = object()
    keys = [k for k in dict.fromkeys([*a, *b]) if a.get(k, gone) != b.get(k, gone)]
    if json:
        sides = ((one, a), (two, b))
        rows = {k: [{"value": s[k], **origin_json(v, k)} if k in s else None for v, s in sides] for k in keys}
        console.out_json({"variants": [one.words, two.words], "differ": rows})
        return
    paint, columns = console.ink(), console.width()
    console.out(f"{paint.removed('-')} {one.words}", f"{paint.ok('+')} {two.words}")
    if not keys:
        console.out("", "nothing differs")
    keys = [k for k in keys if not k.startswith("gpu.sources")]
    values = {k: [yaml_text.text(s[k]) if k in s else "" for s in (a, b)] for k in keys}
    room = min(max((len(v) for pair in values.values() for v in pair), default=0), MOST_VALUE_COLUMNS - 6)
    for key in keys:
        console.out("", paint.key(key))
        for sign, tint, variant, side, value in (
            ("-", paint.removed, one, a, values[key][0]),
            ("+", paint.ok, two, b, values[key][1]),
        ):
            reason = origin_text(variant, key, shadows=False) if key in side else ""
            line = value if key in side else "(not set)"
            left = None if columns is None else columns - max(room, len(line)) - 6
            tail = f"  {paint.dim(console.cut(f'# {reason}', left))}" if reason else ""
            console.out(f"  {tint(sign)} {line.ljust(room)}{tail}".rstrip())


def _show_compiled(variant: Variant, json: bool) -> None:
    plan = variant.plan
    peft = {k: v for k, v in (plan.peft or {}).items() if k != "peft_type"}
    kind = str((plan.peft or {}).get("peft_type", "LORA"))
    parts: dict[str, tuple[dict[str, Any] | None, str]] = {
        "SFTConfig": (plan.training, "training"),
        peft_class(kind): (peft if plan.peft else None, "peft"),
        "BitsAndBytesConfig": (plan.quantization, "quantization"),
        "from_pretrained": (
            {"name_or_path": plan.model.get("name_or_path"), **(plan.model.get("init") or {})},
            "model",
        ),
    }
    if json:
        reasons = {n: {k: _compiled_why(variant, n, s, k) for k in v or {}} for n, (v, s) in parts.items()}
        console.out_json({"compiled": {n: v for n, (v, _) in parts.items()}, "why": reasons})
        return
    paint, columns = console.ink(), console.width()
    console.out(*_head(variant))
    rows = [(n, r) for n, (v, _) in parts.items() if v for r in yaml_text.lines(v, depth=1)]
    room = min(max((len(r.plain()) for _, r in rows if r.key), default=0), MOST_VALUE_COLUMNS)
    for index, (name, (arguments, section)) in enumerate(parts.items()):
        if index:
            console.out("")
        if not arguments:
            console.out(f"{paint.key(name)}: null  {paint.dim('# switched off')}")
            continue
        console.out(f"{paint.key(name)}:")
        for row in yaml_text.lines(arguments, depth=1):
            reason = _compiled_why(variant, name, section, row.key) if row.key else ""
            used = len(row.plain())
            pad = max(room - used, 0) + 2
            left = None if columns is None else columns - used - pad
            tail = (
                " " * pad + paint.dim(console.cut(f"# {reason}", left)) if reason and (left is None or left > 8) else ""
            )
            console.out(row.coloured(paint) + tail)


def peft_class(kind: str) -> str:
    """Name of PEFT's config class for a `peft_type`: `LoraConfig`, `IA3Config`, `VeraConfig`."""
    return f"{'IA3' if kind == 'IA3' else kind.replace('_', ' ').title().replace(' ', '')}Config"


def _compiled_why(variant: Variant, name: str, section: str, key: str) -> str:
    managed = variant.plan.why.get(f"{name}.{key}")
    return managed or origin_text(variant, f"{section}.{key}")
