"""Checks of a recipe: unknown keys in every layer, then types, choices, ranges and rules of what won. All problems at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nothing_tune.errors import Place, Problem
from nothing_tune.recipe import secret, upstream
from nothing_tune.recipe.model import Layer, Origin, leaves, origin_of
from nothing_tune.recipe.names import PEFT_RULES, TRAINING_RULES, renamed
from nothing_tune.recipe.ranges import ADVISED, words
from nothing_tune.recipe.rules import RULES, View
from nothing_tune.recipe.schema import NULLABLE, SECTIONS, TOP, UPSTREAM
from nothing_tune.recipe.values import children, near, problem, told

ENV_KEYS = (
    "data.",
    "generate.prompts",
    "generate.output",
    "generate.generator.",
    "model.name_or_path",
    "model.revision",
    "tracking.entity",
    "tracking.project",
    "tracking.group",
)
"""Keys whose values may name an environment variable: paths and names, which differ from machine to machine."""
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_ENV = re.compile(r"\$\{oc\.env:([^{},]*)")


def check(values: dict[str, Any], origins: dict[str, Origin], layers: tuple[Layer, ...]) -> list[Problem]:
    """Every problem and advice of a merged recipe.

    Args:
        values: Merged and interpolated values; what the plan derives may be absent.
        origins: Origin of each leaf of `values`.
        layers: The layers, in the order in which they were merged.
    """
    out = check_layers(layers)
    out += _inherited(values, origins, out)
    hidden = {p.key for p in out}
    wrong = [p for p in _wrong_values(values, origins) if p.key not in hidden]
    keys = {p.key for p in wrong}
    # A value that only repeats a wrong one is mended with it.
    wrong = [p for p in wrong if p.key not in origins or not keys & set(_REFERENCE.findall(str(origins[p.key].value)))]
    out += wrong
    view = View(_without(values, [*keys]), origins)
    for rule in RULES:
        out += rule(view)
    out += _advice(view)
    return list(dict.fromkeys([*out, *_blocks(layers, out)]))


def check_layers(layers: tuple[Layer, ...]) -> list[Problem]:
    """Unknown keys and secrets of layers by themselves, merged or not."""
    out: list[Problem] = []
    kind, of = "", len(layers)
    kinds: list[str] = []
    for layer in layers:
        kind = "" if "peft" in layer.replace else kind
        kind = _peft_kind(layer.values) or kind
        kinds.append(kind)
    for n, layer in enumerate(layers, 1):
        by = f"layer {n} of {of}: {layer.name}"
        out += _secrets(layer.values, layer.places, layer.value_places, "", by)
        out += _unknown(layer.values, kinds[n - 1] or kind, layer.places, "", by)
    return out


def _blocks(layers: tuple[Layer, ...], others: list[Problem]) -> Iterator[Problem]:
    """Problems of the `gpus` and `scenarios` blocks; those of a chosen block are among `others` already."""
    places = {p.place for p in others if p.place}
    for n, layer in enumerate(layers, 1):
        for found in layer.problems:
            if found.place not in places:
                yield replace(found, layer=f"layer {n} of {len(layers)}: {layer.name}")


def check_blocks(
    block: dict[str, Any], prefix: str, places: dict[str, Place], value_places: dict[str, Place] | None = None
) -> list[Problem]:
    """Unknown keys, secrets and wrong types in one `gpus.NAME` or `scenarios.NAME` block, chosen or not.

    Args:
        block: The block's own values, without `replace`.
        prefix: `gpus.t4.`: what stands before its keys in `places`.
        places: Place of each dotted key of the file.
        value_places: Place of each value, where they are known.
    """
    kind, at = _peft_kind(block), {**places, **(value_places or {})}
    out = _secrets(block, places, at, prefix, "")
    out += _unknown(block, kind, places, prefix, "")
    for key, spec, value in _specified(block, kind):
        if isinstance(value, str) and "${" in value:
            continue
        answer = problem(key, spec, as_written(key, value))
        if answer:
            what, hint = answer
            out.append(Problem(f"{prefix}{what}", f"{prefix}{key}", at.get(f"{prefix}{key}"), hint=hint))
    return out


def as_written(key: str, value: Any) -> Any:
    """`value` as its author meant it: YAML 1.1 reads a bare `no` as false; where `no` is a choice and false is not, it is `no`."""
    if value is not False:
        return value
    section, _, name = key.partition(".")
    if section != "training" or "." in name:
        return value
    option = upstream.options("SFTConfig").get(name)
    return "no" if option and "no" in option.choices and "bool" not in option.types else value


def _peft_kind(values: dict[str, Any]) -> str:
    """The PEFT type that `values` names, empty when it names none that exists."""
    peft = values.get("peft")
    kind = peft.get("peft_type") if isinstance(peft, dict) else None
    return kind if isinstance(kind, str) and kind in upstream.peft_types() else ""


def _specs(section: str, kind: str) -> dict[str, Any]:
    """Name -> specification of a section's keys; for `peft` without a type, those of all types, LoRA's first."""
    if section in SECTIONS:
        return dict(SECTIONS[section])
    if section == "training":
        return dict(upstream.options("SFTConfig"))
    if section == "quantization":
        return dict(upstream.options("BitsAndBytesConfig"))
    if kind:
        return dict(upstream.options(kind))
    every: dict[str, Any] = dict(upstream.options("LORA"))
    for other in upstream.peft_types():
        every = {**upstream.options(other), **every}
    return every


def _whose(section: str, kind: str) -> str:
    versions = upstream.versions()
    if section == "training":
        return f"an option of SFTConfig (trl {versions['trl']})"
    if section == "quantization":
        return f"an option of BitsAndBytesConfig (transformers {versions['transformers']})"
    if section == "peft":
        return f"an option of {kind or 'any PEFT method'} (peft {versions['peft']})"
    return f"a key of {section}" if section else "a section of a recipe"


def _unknown(values: dict[str, Any], kind: str, places: dict[str, Place], prefix: str, layer: str) -> list[Problem]:
    out: list[Problem] = []

    def tell(path: str, section: str, name: str, value: Any, known: list[str]) -> None:
        what, hint = _unknown_words(path, section, name, value, known, kind)
        out.append(Problem(f"{prefix}{what}", f"{prefix}{path}", places.get(f"{prefix}{path}"), layer, hint))

    def walk(inner: dict[str, Any], specs: dict[str, Any], section: str, above: str) -> None:
        for name, value in inner.items():
            path = f"{above}.{name}"
            if name not in specs:
                tell(path, section, name, value, list(specs))
                continue
            below = children(specs[name])
            for under, inside in _mappings(value, path, specs[name]):
                if below is not None:
                    walk(inside, below, section, under)

    sections = [*SECTIONS, *UPSTREAM]
    for name, value in values.items():
        if name in sections:
            if isinstance(value, dict):
                walk(value, _specs(name, kind), name, name)
        elif name not in TOP or (prefix and name != "description"):
            tell(name, "", name, value, [*sections, *([] if prefix else TOP)])
    return out


def _unknown_words(path: str, section: str, name: str, value: Any, known: list[str], kind: str) -> tuple[str, str]:
    """`(what, hint)` for a key that nobody knows."""
    nested = path.count(".") > 1
    whose = f"a key of {path.rpartition('.')[0]}" if nested else _whose(section, kind)
    written = str(value).lower() if isinstance(value, bool) else "..." if isinstance(value, dict | list) else value
    other = None if nested else renamed(section, name, "***" if secret.found(path, value) else written)
    if other and other[0]:
        upstream_name = UPSTREAM[section]
        return f"{path} was removed from {upstream_name}", other[1]
    what = f"{path} is not {whose}"
    if other:
        return what, other[1]
    if isinstance(value, dict) and not section:
        alike = near(name, known)
        return what, f"did you mean {alike[0]}?" if alike else f"one of: {', '.join(known)}"
    homes = [s for s in (*SECTIONS, *UPSTREAM) if s not in (section, "gpu") and name in _specs(s, kind)]
    alike = near(name, known)
    if homes and not nested:
        return what, f"it belongs under {homes[0]}:"
    if alike:
        return what, f"did you mean {' or '.join(alike)}?"
    if section in UPSTREAM and not nested:
        return what, f"remove it; upstream would {'ignore' if section == 'quantization' else 'refuse'} it"
    return what, f"one of: {', '.join(known)}"


def _inherited(values: dict[str, Any], origins: dict[str, Origin], others: list[Problem]) -> Iterator[Problem]:
    """Options of another PEFT method that a lower layer left behind."""
    kind, peft = _peft_kind(values), values.get("peft")
    if not kind or not isinstance(peft, dict):
        return
    reported = {p.key for p in others}
    left = [name for name in peft if name not in upstream.options(kind) and f"peft.{name}" not in reported]
    if left:
        below = origin_of(origins, f"peft.{left[0]}")
        yield _problem(
            "peft.peft_type",
            f"peft.peft_type is {kind}, which has no {', '.join(left)}" + (f" ({below})" if below else ""),
            f"write replace: [peft] in the layer that sets {kind}, so that nothing of another method is inherited",
            origin_of(origins, "peft.peft_type"),
        )


def _specified(values: dict[str, Any], kind: str) -> Iterator[tuple[str, Any, Any]]:
    """`(dotted key, specification, value)` of every known key, nested ones too."""

    def walk(inner: dict[str, Any], specs: dict[str, Any], above: str) -> Iterator[tuple[str, Any, Any]]:
        for name, value in inner.items():
            spec = specs.get(name)
            if spec is None:
                continue
            path = f"{above}.{name}" if above else name
            yield path, spec, value
            below = children(spec)
            for under, inside in _mappings(value, path, spec):
                if below is not None:
                    yield from walk(inside, below, under)

    yield from walk({k: v for k, v in values.items() if k in TOP}, TOP, "")
    for section in (*SECTIONS, *UPSTREAM):
        content = values.get(section)
        if isinstance(content, dict):
            yield from walk(content, _specs(section, kind), section)


def _mappings(value: Any, path: str, spec: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """`(dotted key, mapping)` of a value that is a mapping, of each mapping in a list, and of each one under a free name."""
    if isinstance(value, dict) and getattr(spec, "each", False):
        yield from ((f"{path}.{name}", item) for name, item in value.items() if isinstance(item, dict))
    elif isinstance(value, dict):
        yield path, value
    elif isinstance(value, list):
        yield from ((f"{path}.{n}", item) for n, item in enumerate(value) if isinstance(item, dict))


def _wrong_values(values: dict[str, Any], origins: dict[str, Origin]) -> Iterator[Problem]:
    for section in (*SECTIONS, *UPSTREAM):
        content = values.get(section, {})
        if not isinstance(content, dict) and not (content is None and section in NULLABLE):
            hint = "null switches it off" if section in NULLABLE else "indent its keys below it"
            hint = "remove the line" if content is None else hint
            what = f"{section} must be a mapping of keys, not {told(content)}"
            yield _problem(section, what, hint, origin_of(origins, section))
    for key, spec, value in _specified(values, _peft_kind(values)):
        origin = origin_of(origins, key)
        answer = _variable(key, value) or _refused(key, value)
        if answer is None and not (isinstance(value, str) and _ENV.search(value)):
            answer = problem(key, spec, value)
            if answer and origin and isinstance(origin.value, str) and "${" in origin.value:
                answer = (f"{answer[0]}, which {origin.value} gives", answer[1])
        steps = (values.get("training") or {}).get("max_steps") if isinstance(values.get("training"), dict) else None
        if key == "training.num_train_epochs" and isinstance(steps, int) and steps > 0 and value == 0:
            continue
        if answer:
            yield _problem(key, *answer, origin)


def _variable(key: str, value: Any) -> tuple[str, str] | None:
    texts = [
        v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)
    ]  # mappings: their own keys
    for name in (n for text in texts for n in _ENV.findall(text)):
        if secret.SECRET_NAME.search(name):
            return f"{key} may not take a secret: ${{oc.env:{name}}}", "the tools read it themselves; remove the line"
        if not key.startswith(ENV_KEYS):
            return (
                f"{key} may not come from an environment variable",
                "write the value: a run must say what it trained with",
            )
    return None


def _refused(key: str, value: Any) -> tuple[str, str] | None:
    section, _, name = key.partition(".")
    rules = {"training": TRAINING_RULES, "peft": PEFT_RULES}.get(section, {})
    verb, reason = rules.get(name, ("", ""))
    if verb == "refused" and value is not None and value is not False:
        return f"{key} cannot be set in a recipe", reason
    return None


def _secrets(
    values: dict[str, Any], places: dict[str, Place], value_places: dict[str, Place], prefix: str, layer: str
) -> list[Problem]:
    out = []
    for key, value in leaves(values).items():
        hit = secret.found(key, value)
        if hit:
            place = value_places.get(f"{prefix}{key}") or places.get(f"{prefix}{key}")
            what = f"{prefix}{key} holds what looks like {hit[0]}"
            out.append(Problem(what, f"{prefix}{key}", place, layer, f"remove it here, and set {hit[1]} instead"))
    return out


def _advice(view: View) -> Iterator[Problem]:
    for key, (usual, source) in ADVISED.items():
        if key.startswith("peft.") and view.get("peft.peft_type") != "LORA":
            continue
        value = view.number(key)
        if value is not None and value >= 0 and not usual.holds(value):
            hint = "it is allowed; a typing error would look the same"
            between = f"{words(usual.low or 0)} to {words(usual.high or 0)}"
            yield view.problem(key, f"{key} is {words(value)}; {source} uses {between}", hint, "advice")


def _without(values: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """A copy without some dotted keys, so that rules see only values that are right by themselves."""
    out = {
        k: _without(v, [key[len(k) + 1 :] for key in keys if key.startswith(f"{k}.")]) if isinstance(v, dict) else v
        for k, v in values.items()
    }
    return {k: v for k, v in out.items() if k not in keys}


def _problem(key: str, what: str, hint: str, origin: Origin | None) -> Problem:
    return Problem(what, key, origin.place if origin else None, str(origin) if origin else "", hint)
