"""All that is known of a key without a recipe: its guidance, type, range and default, and what upstream says of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from nothing_tune.errors import Place
from nothing_tune.recipe import upstream
from nothing_tune.recipe.compose import number
from nothing_tune.recipe.guidance import Guidance, guidance, guided, named
from nothing_tune.recipe.library import library_root
from nothing_tune.recipe.model import lookup
from nothing_tune.recipe.names import PEFT_RULES, TRAINING_RULES
from nothing_tune.recipe.ranges import ADVISED, RANGES, Range, words
from nothing_tune.recipe.schema import SECTIONS, TOP, UPSTREAM, Field, field_of
from nothing_tune.recipe.values import kinds

MISSING: Any = object()
"""Stands for a value that nobody gives."""
_FIRST = (
    "model",
    "data",
    "generate",
    "quantization",
    "peft",
    "training",
    "tracking",
    "monitor",
    "checkpoint",
    "launch",
    "export",
)
ORDER = (*_FIRST, *(name for name in SECTIONS if name not in (*_FIRST, "gpu")), "gpu")
"""The sections, in the order in which one reads them."""
_NUMBERS = {"int", "float"}
_PACKAGES = {"SFTConfig": "trl", "BitsAndBytesConfig": "transformers"}


@dataclass(frozen=True)
class Setting:
    """A key, or a section.

    Attributes:
        key: Dotted key.
        kind: The upstream class that has it, as in `upstream.Option.kind`; empty for our own keys.
        what: What it does, in our words; empty for options of upstream that we say nothing of.
        types: As in `upstream.Option.types`.
        unit: Of a number, `no unit` where it has none.
        allowed: Which values are valid, in words.
        choices: Valid texts; empty when any will do.
        usual: The usual range in words, and who says so; empty when nobody does.
        default: Value of base/qlora, else our own default; `MISSING` where neither gives one.
        place: Where base/qlora sets it.
        derived: What the plan derives it from, in words, where it is left unset.
        upstream: Upstream's default; `MISSING` for our own keys, and where upstream requires or computes it.
        doc: What upstream's documentation says.
        package: `trl 1.16.0`, whose documentation it is.
        rule: `managed` or `refused`; empty for what is passed on.
        reason: Why it is managed, or what to write instead of a refused one.
        said: Our guidance.
    """

    key: str
    kind: str
    what: str
    types: tuple[str, ...]
    unit: str
    allowed: str
    choices: tuple[str, ...]
    usual: tuple[str, str]
    default: Any
    place: Place | None
    derived: str
    upstream: Any
    doc: str
    package: str
    rule: str
    reason: str
    said: Guidance


def setting(key: str, kind: str = "LORA") -> Setting | None:
    """What is known of a key; None when no recipe can have it.

    Args:
        key: Dotted key, or a section's name.
        kind: PEFT type of the recipe; an option that it does not have is looked for in the other methods, LoRA first.
    """
    section, _, name = key.partition(".")
    entry, spec = guidance(key, kind), spec_of(key, kind)
    if spec is None and key not in ORDER and (entry is None or entry.same):
        return None
    said = entry or Guidance(key)
    option = spec if isinstance(spec, upstream.Option) else None
    field = spec if isinstance(spec, Field) else None
    inherited = spec is None and said.key.partition("@")[0] != key and "NAME" not in said.key
    types = said.types or (spec.types if spec else ("str",) if inherited else ("dict",))
    value, place = _default(key, section, option, kind)
    if value is MISSING and field is not None and field.default is not None:
        value = field.default
    rules = {"training": TRAINING_RULES, "peft": PEFT_RULES}.get(section, {})
    rule, reason = rules.get(name, ("", ""))
    of = option.kind if option else ""
    package = _PACKAGES.get(of, "peft") if of else ""
    return Setting(
        key=key,
        kind=of,
        what=f"Where gpu.{name[8:]} comes from." if inherited else said.what or (field.doc if field else ""),
        types=types,
        unit=said.unit or "no unit",
        allowed=f"{kinds(types)}; {said.range}" if said.range else _allowed(key, spec, types),
        choices=tuple(spec.choices) if spec else (),
        usual=_usual(key, of),
        default=value,
        place=place,
        derived=said.default,
        upstream=MISSING if option is None or option.required else option.default,
        doc=option.doc if option else "",
        package=f"{package} {upstream.versions()[package]}" if package else "",
        rule=rule,
        reason=reason,
        said=said,
    )


def spec_of(key: str, kind: str = "LORA") -> Field | upstream.Option | None:
    """Type, choices and range of a key; None where there is no such key, for a section, and for what is below free mappings."""
    section, _, name = key.partition(".")
    if section not in UPSTREAM:
        return field_of(key) if section in SECTIONS or section in TOP else None
    if not name:
        return None
    first, _, inner = name.partition(".")
    for each in kinds_of(section, kind):
        option = upstream.options(each).get(first)
        if option is not None:
            return upstream.options(option.fields).get(inner) if inner and option.fields else None if inner else option
    return None


def kinds_of(section: str, kind: str) -> tuple[str, ...]:
    """Upstream's classes that an option of a section may belong to, the likeliest first."""
    if section != "peft":
        return ({"training": "SFTConfig", "quantization": "BitsAndBytesConfig"}[section],)
    return tuple(dict.fromkeys([*([kind] if kind in upstream.peft_types() else []), "LORA", *upstream.peft_types()]))


@cache
def known(kind: str = "LORA", *, others: bool = False) -> tuple[str, ...]:
    """Every key that a recipe with this PEFT type may have, sections first; `NAME` stands for names of one's own.

    With `others` the options of all other PEFT types, too.
    """
    keys = [*ORDER, *TOP]
    for section in ORDER:
        if section in SECTIONS:
            keys += _fields(section, SECTIONS[section])
        elif section == "peft" and not others:
            keys += [f"peft.{name}" for name in upstream.options(kind if kind in upstream.peft_types() else "LORA")]
        else:
            keys += [f"{section}.{name}" for each in kinds_of(section, kind) for name in upstream.options(each)]
    keys += [k for k in guided() if "@" not in k and (k.partition(".")[0] != "peft" or "." in k.partition(".")[2])]
    return tuple(dict.fromkeys(keys))


def below(key: str, kind: str = "LORA") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`(keys that we speak of, other options of upstream)` directly below a section or mapping, without refused ones; both empty
    below a value."""
    pattern = named(key)
    children = [k for k in known(kind) if k.rpartition(".")[0] == pattern and not k.endswith(".NAME")]
    if pattern == key == "generate.groups":
        children = [k for k in known(kind) if k.rpartition(".")[0] == f"{key}.NAME"]
    place = {name: n for n, name in enumerate(k.partition("@")[0] for k in guided())}
    children.sort(key=lambda k: place.get(k, len(place)))
    children = [k.replace(pattern, key, 1) for k in children]
    rules = {"training": TRAINING_RULES, "peft": PEFT_RULES}.get(key, {})
    older = [k for k in children if (entry := guidance(k, kind)) and entry.same]
    more = [
        k
        for k in children
        if not _told(k, kind) and k not in older and rules.get(k.rpartition(".")[2], ("",))[0] != "refused"
    ]
    return tuple(k for k in children if _told(k, kind)), tuple(more)


@cache
def base() -> tuple[dict[str, Any], dict[str, Place]]:
    """`(values, places)` of base/qlora."""
    from nothing_tune.recipe import BASE
    from nothing_tune.recipe.reader import read_file

    values, places, _ = read_file(library_root() / f"{BASE}.yaml")
    return values, places


def _told(key: str, kind: str) -> bool:
    if key.partition(".")[0] not in UPSTREAM:
        return True
    entry = guidance(key, kind)
    return entry is not None and not entry.same


def _fields(prefix: str, fields: dict[str, Field]) -> list[str]:
    keys = []
    for name, field in fields.items():
        key = f"{prefix}.{name}"
        keys.append(key)
        keys += _fields(f"{key}.NAME" if field.each else key, field.fields or {})
    return keys


def _default(key: str, section: str, option: upstream.Option | None, kind: str) -> tuple[Any, Place | None]:
    """What base/qlora sets; nothing for options of a PEFT method that is not its own, and for facts of the GPU."""
    values, places = base()
    if section == "peft" and option is not None and (option.kind != "LORA" or kind not in ("LORA", "")):
        return MISSING, None
    found = lookup(values, key, MISSING)
    if found is MISSING or (isinstance(found, dict) and found):
        return MISSING, None
    return found, places.get(key)


def _allowed(key: str, spec: Field | upstream.Option | None, types: tuple[str, ...]) -> str:
    if spec is None:
        return kinds(types)
    if spec.choices:
        more = [t for t in types if t in ("null", "bool", "list[str]", *_NUMBERS)]
        more = [word for t in more for word in kinds((t,)).split(" or ")]
        shown = [*spec.choices[:12], *([f"{len(spec.choices) - 12} more"] if len(spec.choices) > 12 else []), *more]
        return f"{', '.join(shown[:-1])} or {shown[-1]}" if len(shown) > 1 else shown[0]
    limits = (
        RANGES.get(key) if isinstance(spec, upstream.Option) else Range(spec.low, spec.high, spec.above, spec.below)
    )
    text = str(limits or "")
    if isinstance(spec, Field) and spec.example:
        text = f"such as {spec.example}"
    return f"{kinds(types)}, {text}" if text else kinds(types)


def _usual(key: str, kind: str) -> tuple[str, str]:
    if key not in ADVISED or (key.startswith("peft.") and kind != "LORA"):
        return "", ""
    usual, source = ADVISED[key]
    assert usual.low is not None
    assert usual.high is not None
    low, high = (words(n) if float(n).is_integer() else number(n) for n in (usual.low, usual.high))
    return f"{low} to {high}", source
