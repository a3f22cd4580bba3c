"""Builds the JSON schema of recipes from our own table and the upstream snapshot: completion and hover text in editors."""

from __future__ import annotations

from typing import Any

from nothing_tune.recipe import upstream
from nothing_tune.recipe.names import PEFT_RULES, TRAINING_RULES
from nothing_tune.recipe.ranges import RANGES
from nothing_tune.recipe.schema import NULLABLE, SECTIONS, TOP, Field
from nothing_tune.recipe.values import DERIVED, PATTERNS

URI = "http://json-schema.org/draft-07/schema#"
INTERPOLATION = {"type": "string", "pattern": r"\$\{[^}]+\}"}
TYPES: dict[str, dict[str, Any]] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "list": {"type": "array"},
    "list[str]": {"type": "array", "items": {"type": "string"}},
    "list[int]": {"type": "array", "items": {"type": "integer"}},
    "dict": {"type": "object"},
    "dict[str]": {"type": "object", "additionalProperties": {"type": "string"}},
    "null": {"type": "null"},
    "any": {},
}
ABOUT = {
    "model": "The base model and how it is loaded.",
    "data": "Which rows train and evaluate.",
    "generate": "How `tune data generate` makes training rows: a generator answers prompts.",
    "quantization": "BitsAndBytesConfig: how the frozen base is stored; null switches it off.",
    "peft": "The PEFT config; null trains every weight.",
    "training": "SFTConfig, by its own names.",
    "tracking": "Where metrics go.",
    "monitor": "What is watched, and when a run ends early.",
    "checkpoint": "What is saved, when, and what is kept.",
    "launch": "How many processes train together.",
    "export": "What is written for others to load once the run has trained; null is nothing.",
    "advice": "Which advice of `tune plan` the recipe does not follow, and why.",
    "gpu": "Facts of the chosen GPU.",
}


def build() -> dict[str, Any]:
    """The schema as plain data."""
    sections = {
        "model": _ours("model"),
        "data": _ours("data"),
        "quantization": _upstream("quantization", "BitsAndBytesConfig"),
        "peft": _peft(),
        "training": _upstream("training", "SFTConfig"),
        **{name: _ours(name) for name in SECTIONS if name not in ("model", "data")},
    }
    definitions: dict[str, Any] = {}
    for name, content in sections.items():
        content["description"] = ABOUT[name]
        definitions[name] = content
    parts: dict[str, Any] = {
        name: {"anyOf": [{"$ref": f"#/definitions/{name}"}, {"type": "null"}], "description": ABOUT[name]}
        if name in NULLABLE
        else {"$ref": f"#/definitions/{name}"}
        for name in sections
    }
    top = {name: _key(name, field) for name, field in TOP.items()}
    replace = {**top["replace"], "anyOf": [{"type": "array", "items": {"enum": list(sections)}}]}
    definitions["block"] = {
        "type": ["object", "null"],
        "properties": {"description": top["description"], "replace": replace, **parts},
        "additionalProperties": False,
    }
    for block in ("gpus", "scenarios"):
        top[block] = {
            "type": ["object", "null"],
            "additionalProperties": {"$ref": "#/definitions/block"},
            "description": TOP[block].doc,
        }
    return {
        "$schema": URI,
        "title": "nothing-tune recipe",
        "description": "One recipe, or one layer of it, for nothing-tune.",
        "type": "object",
        "properties": {**top, "replace": replace, **parts},
        "additionalProperties": False,
        "definitions": definitions,
    }


def _ours(section: str) -> dict[str, Any]:
    properties = {name: _key(f"{section}.{name}", field) for name, field in SECTIONS[section].items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _upstream(section: str, kind: str) -> dict[str, Any]:
    properties = {}
    for name, option in upstream.options(kind).items():
        key = f"{section}.{name}"
        verb, reason = {"training": TRAINING_RULES, "peft": PEFT_RULES}.get(section, {}).get(name, ("", ""))
        if verb != "refused":
            properties[name] = _key(key, option, f"Managed: {reason}." if verb else "")
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _peft() -> dict[str, Any]:
    """Options of all methods in one object; where methods differ in an option's type, any of the types."""
    properties: dict[str, Any] = {}
    for kind in ("LORA", *(k for k in upstream.peft_types() if k != "LORA")):
        for name, schema in _upstream("peft", kind)["properties"].items():
            have = properties.setdefault(name, schema)
            if have is not schema and _bare(have) != _bare(schema):
                alternatives = [a for a in _alternatives(schema) if a not in _alternatives(have)]
                properties[name] = {**_about(have), "anyOf": [*_alternatives(have), *alternatives]}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _key(key: str, spec: Field | upstream.Option, note: str = "") -> dict[str, Any]:
    alternatives: list[dict[str, Any]] = []
    nullable = "null" in spec.types or key in DERIVED
    for kind in dict.fromkeys([*(t for t in spec.types if t != "null"), *(["null"] if nullable else [])]):
        one = dict(TYPES.get(kind, {}))
        if kind == "str" and spec.choices:
            one = {"enum": [c for c in spec.choices if "[" not in c]}
        elif kind in ("list", "list[str]") and spec.choices:
            one = {"type": "array", "items": {"enum": list(spec.choices)}}
        elif kind in ("int", "float"):
            one |= _limits(key, spec)
        elif kind == "str" and isinstance(spec, Field) and spec.pattern:
            one["pattern"] = f"^{spec.pattern}$"
        elif kind == "dict":
            one |= _nested(key, spec)
        elif kind == "list[source]":
            one = {"type": "array", "items": {"anyOf": [TYPES["str"], {**TYPES["dict"], **_nested(key, spec)}]}}
        alternatives.append(one)
    if spec.choices and "no" in spec.choices and "bool" not in spec.types:
        alternatives.append({"const": False})  # a bare `no`, as YAML 1.1 reads it
    if key in PATTERNS:
        alternatives.append({"type": "string", "pattern": f"^(?:{PATTERNS[key]})$"})
    if (
        {} not in alternatives
        and {"type": "string"} not in alternatives
        and key not in ("layers", "replace", "gpus", "scenarios")
    ):
        alternatives.append(INTERPOLATION)
    out: dict[str, Any] = {"anyOf": alternatives} if len(alternatives) > 1 else dict(alternatives[0])
    doc = " ".join(p for p in (spec.doc, note) if p)
    if doc:
        out["description"] = doc
    if spec.default is not None:
        out["default"] = spec.default
    return out


def _limits(key: str, spec: Field | upstream.Option) -> dict[str, Any]:
    low, high, above, below = (
        (spec.low, spec.high, spec.above, spec.below)
        if isinstance(spec, Field)
        else (r.low, r.high, r.above, r.below)
        if (r := RANGES.get(key))
        else (None, None, False, False)
    )
    out: dict[str, Any] = {}
    if low is not None:
        out["exclusiveMinimum" if above else "minimum"] = low
    if high is not None:
        out["exclusiveMaximum" if below else "maximum"] = high
    return out


def _nested(key: str, spec: Field | upstream.Option) -> dict[str, Any]:
    below: dict[str, Any] = (
        dict(spec.fields or {})
        if isinstance(spec, Field)
        else dict(upstream.options(spec.fields))
        if spec.fields
        else {}
    )
    if not below:
        return {}
    keys = {
        "properties": {name: _key(f"{key}.{name}", one) for name, one in below.items()},
        "additionalProperties": False,
    }
    if isinstance(spec, Field) and spec.each:
        return {"additionalProperties": {"type": ["object", "null"], **keys}}
    return keys


def _alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return list(schema["anyOf"]) if "anyOf" in schema else [_bare(schema)]


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in schema.items() if k not in ("description", "default")}


def _about(schema: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in schema.items() if k in ("description", "default")}
