"""Checks one value against what its key allows: type, choices, range. Each answer says what is wrong and the cure."""

from __future__ import annotations

import re
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from nothing_tune.recipe.ranges import RANGES, Range, words
from nothing_tune.recipe.schema import Field
from nothing_tune.recipe.secret import masked
from nothing_tune.recipe.upstream import Option, options

WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "list[str]": "a list of texts",
    "list[int]": "a list of whole numbers",
    "list[source]": "a list of sources",
    "dict": "a mapping",
    "dict[str]": "a mapping of names",
    "null": "null",
}
DERIVED = ("training.fp16", "training.use_cpu", "quantization.bnb_4bit_compute_dtype")
"""Keys that null leaves to the plan, whatever upstream says of null."""
PATTERNS = {"peft.init_lora_weights": r"pissa_niter_\d+", "model.attn_implementation": r"[\w.-]+/[\w.@-]+(:\w+)?"}
"""Texts that are valid besides the choices."""
HINTS = {
    "training.max_length": "null switches the limit off",
    "monitor.early_stopping_patience": "null never ends a run early",
    "training.save_total_limit": "null leaves the number to checkpoint.keep",
    "training.max_steps": "-1 leaves the length to num_train_epochs",
    "data.max_samples": "null is all of them",
    "data.max_bad_rows": "it is a share: 0.01 is one row in a hundred",
    "data.near_duplicates": "it is a share: 1 is the same words, 0.85 the usual",
    "monitor.loss_spike": "null never warns",
    "monitor.hang_minutes": "null waits forever",
    "monitor.non_finite_steps": "1 ends the run at the first",
    "checkpoint.max_loss_minutes": "null saves by steps alone",
    "export.push": "write ORG/NAME: who owns the repository, and what it is called",
    "launch.processes": "1 trains on one GPU",
    "generate.generator.api_key_env": "write the name of an environment variable, not the key itself",
    "generate.filters.openings": "it is a share: 0.02 is one answer in fifty; null takes any",
    "generate.filters.near_duplicates": "it is a share: 1 is the same words, 0.85 the usual; null takes them",
}

EXAMPLES = {"training.learning_rate": 2e-4, "training.max_steps": 100, "training.warmup_steps": 0.03}
"""Numbers that messages show where upstream's default says little."""

Spec = Field | Option
Answer = tuple[str, str]


def near(name: str, known: list[str], cutoff: float = 0.6) -> list[str]:
    """At most two of `known` that `name` may mean: the same in another case, else what it begins, else what looks alike."""
    lower = {k.lower(): k for k in known}
    text = name.lower()
    if text in lower:
        return [lower[text]]
    begun = [lower[k] for k in lower if len(text) > 2 and k.startswith(text)]
    alike = [lower[k] for k in get_close_matches(text, list(lower), n=2, cutoff=cutoff)]
    if alike and SequenceMatcher(None, text, alike[0].lower()).ratio() > 0.9:
        return alike[:1]
    return begun[:2] or alike


def children(spec: Spec) -> dict[str, Any] | None:
    """The keys below a key; None when any are allowed."""
    if isinstance(spec, Field):
        return spec.fields
    return dict(options(spec.fields)) if spec.fields else None


def problem(key: str, spec: Spec, value: Any) -> Answer | None:
    """`(what, hint)` when `value` cannot stand at `key`; None when it can."""
    if key in DERIVED and value is None:
        return None
    if not any(_is(value, t) for t in spec.types):
        return _wrong_type(key, spec, value)
    if isinstance(value, dict) and "dict[str]" in spec.types and "dict" not in spec.types:
        for name, text in value.items():
            if not isinstance(text, str):
                return f"{key}.{name} must be a text, not {told(text)}", "name a column of the file"
    choices = spec.choices
    for text in value if isinstance(value, list) else [value]:
        if (
            choices
            and isinstance(text, str)
            and text not in choices
            and not re.fullmatch(PATTERNS.get(key, "(?!)"), text)
        ):
            more = ["true", "false"] if isinstance(spec, Field) and "bool" in spec.types else []
            return _wrong_choice(key, text, [*(c for c in choices if "[" not in c), *more])
    if isinstance(spec, Field) and spec.pattern and isinstance(value, str) and not re.fullmatch(spec.pattern, value):
        return f"{key} must look like {spec.example}, not {told(value)}", HINTS.get(
            key, "a number and its unit: d, h, m or s"
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        allowed = RANGES.get(key) if isinstance(spec, Option) else Range(spec.low, spec.high, spec.above, spec.below)
        if value != value or value in (float("inf"), float("-inf")):
            return f"{key} must be a finite number, not {value}", ""
        if allowed and not allowed.holds(value):
            return f"{key} must be {allowed}, not {words(value)}", HINTS.get(key, "")
    return None


def kinds(types: tuple[str, ...]) -> str:
    """Types in words: `a number or null`."""
    if {"any"} & set(types):
        return "any value"
    words = [w for t in types if t in WORDS for w in (("true", "false") if t == "bool" else (WORDS[t],))]
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _is(value: Any, kind: str) -> bool:
    if kind == "any":
        return True
    if kind == "null":
        return value is None
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "str":
        return isinstance(value, str)
    if kind == "dict":
        return isinstance(value, dict)
    if kind == "dict[str]":
        return isinstance(value, dict)  # its values: `problem`
    if kind == "list[source]":
        return isinstance(value, list) and all(isinstance(v, str | dict) for v in value)
    if not isinstance(value, list):
        return False
    inner = kind[5:-1]
    return not inner or inner not in WORDS or all(_is(item, inner) for item in value)


def _wrong_type(key: str, spec: Spec, value: Any) -> Answer:
    what = f"{key} must be {kinds(spec.types)}, not {told(value)}"
    types, text = set(spec.types), str(value)
    if "dict[str]" in types:
        return what, "write the format's column and the file's: {prompt: question}"
    if isinstance(value, str):
        if types & {"int", "float"} and _number(text):
            return what, f"write {text.strip()} without quotes"
        if "bool" in types and text.lower() in ("true", "false", "yes", "no", "on", "off"):
            return what, f"write {'true' if text.lower() in ('true', 'yes', 'on') else 'false'} without quotes"
        if "list[str]" in types:
            return what, f"write [{masked(text)[1:-1]}]"
        if "null" in types and text.lower() in ("none", "~", ""):
            return what, "write null"
        if types & {"int", "float"} and not types & {"list[str]"} and not spec.choices:
            return what, _example(key, spec)
        if spec.choices:
            return what, f"one of: {', '.join(spec.choices[:12])}"
    elif isinstance(value, bool):
        if value is False and "null" in types:
            return what, "write null for none"
        if "str" in types:
            meant = f"; one of: {', '.join(spec.choices[:12])}" if spec.choices else ""
            return what, f"YAML reads on, off, yes and no as true or false: quote the word{meant}"
        if types & {"int", "float"}:
            return what, ""
    elif value is None:
        return what, f"remove the line, or remove the value with ~{key}"
    elif isinstance(value, int | float):
        if "bool" in types and value in (0, 1):
            return what, f"write {'true' if value else 'false'}"
        if "int" in types and float(value).is_integer():
            return what, f"write {int(value)}"
        if "str" in types and isinstance(spec, Field) and spec.example:
            unit = "with its unit" if spec.example[:1].isdigit() else "as text"
            return what, f"write it {unit}, such as {spec.example}"
        if spec.choices and text not in spec.choices and "str" in types:
            return what, f"one of: {', '.join(spec.choices[:12])}"
        if "str" in types:
            return what, f'quote it: "{text}"'
        if "list[int]" in types or "list[str]" in types:
            return what, f"write [{text}]"
    elif isinstance(value, list) and "list[source]" in types:
        bad = next((i for i in value if not isinstance(i, str | dict)), None)
        return what, f"{told(bad)} is no source: write a text, or a mapping with `source`"
    elif isinstance(value, list) and types & {"list[str]"}:
        bad = next((i for i in value if not isinstance(i, str)), None)
        return what, f'quote what is no word: "{bad}"' if isinstance(bad, int | float | bool) else ""
    elif isinstance(value, list) and len(value) == 1 and "list" not in types:
        return what, f"write {masked(value[0])} without brackets"
    return what, ""


def _wrong_choice(key: str, text: str, choices: list[str]) -> Answer:
    alike = near(text, choices, 0.55)
    what = f"{key}: {masked(text)} is not one of its values"
    if alike:
        return what, f"did you mean {' or '.join(alike)}?"
    more = ", ..." if len(choices) > 12 else ""
    return what, f"one of: {', '.join(choices[:12])}{more}"


def told(value: Any) -> str:
    """A value in words, without secrets."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {masked(value)}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"the list {masked(value)}"
    return "null" if value is None else str(value)


def _example(key: str, spec: Spec) -> str:
    """`write a number, such as 0.0002`: a default of the key, where it has one."""
    usual = EXAMPLES.get(key, spec.default)
    if not isinstance(usual, int | float) or isinstance(usual, bool):
        return ""
    return f"write {'a number' if 'float' in spec.types else 'a whole number'} such as {words(usual)}"


def _number(text: str) -> bool:
    try:
        float(text.replace("_", ""))
    except ValueError:
        return False
    return True
