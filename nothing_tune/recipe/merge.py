"""Merges layers with OmegaConf, remembers which layer set each value, and resolves interpolations. OmegaConf is used here only."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from nothing_tune.errors import Place, Problem, RecipeError
from nothing_tune.recipe import checks
from nothing_tune.recipe.model import Layer, Origin, leaves, lookup
from nothing_tune.recipe.schema import NULLABLE, PROMPTS, SOURCES
from nothing_tune.recipe.sources import one_source, several_sources
from nothing_tune.recipe.values import told

_ENV = re.compile(r"\$\{oc\.env:([^{}]*)\}")
_ENV_KEPT = re.compile("\ue000([^\ue001]*)\ue001")
_REFERENCE = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*\}")
MAX_TEXT = 100_000
"""Most characters that the references in one value may unfold to."""
_RESOLVER = re.compile(r"\$\{\s*([A-Za-z_][\w.]*)\s*:")


def merge(layers: list[Layer]) -> tuple[dict[str, Any], dict[str, Origin]]:
    """`(values, origins)` of the layers folded from the left; `${oc.env:NAME}` stays as written.

    Raises:
        RecipeError: A layer sets a value where another has a section, or an interpolation leads nowhere; all problems.
    """
    config = OmegaConf.create({})
    origins: dict[str, Origin] = {}
    sections: set[str] = set()  # every key that ever had keys below it
    problems: list[Problem] = []
    for n, layer in enumerate(layers, 1):
        values = {k: _protect(v) for k, v in layer.values.items()}
        removed = [*layer.replace, *layer.unset]
        for key in removed:
            if not _drop(config, key) and key in layer.unset:
                problems.append(
                    Problem(
                        f"~{key} removes nothing: no layer sets {key}",
                        key,
                        hint="tune show-config --why lists what is set",
                    )
                )
            origins = {k: o for k, o in origins.items() if k != key and not k.startswith(f"{key}.")}
        for key in layer.replace:
            values.setdefault(key, {})
        several = _start_sources(config, values, layer, origins, f"layer {n} of {len(layers)}: {layer.name}")
        clashes = several or _clashes(config, values, layer, n, len(layers))
        problems += clashes
        if clashes:
            continue
        try:
            config.merge_with(values)
        except OmegaConfBaseException as error:
            key = str(getattr(error, "full_key", "") or "")
            written = lookup(layer.values, key)
            grammar = isinstance(error, GrammarParseError)
            said = f"{written!r} is not a valid interpolation" if grammar else str(error).splitlines()[0]
            place, by = layer.value_places.get(key), f"layer {n} of {len(layers)}: {layer.name}"
            problems.append(
                Problem(f"{key or layer.name}: {said}", key, place, by, "write ${section.key}" if grammar else "")
            )
            continue
        for key, value in leaves(layer.values).items():
            before = origins.get(key)
            if key in sections:
                origins = {k: o for k, o in origins.items() if not k.startswith(f"{key}.")}
            for parent in _parents(key):
                sections.add(parent)
                origins.pop(parent, None)
            shadowed = (*before.shadowed, replace(before, shadowed=())) if before else ()
            place = layer.value_places.get(key)
            origins[key] = Origin(
                layer.name, n, len(layers), value, place, shadowed, layer.own, _inside(layer, key, value)
            )
    if problems:
        raise RecipeError(*problems)
    values = _resolve(config, origins)
    alive = leaves(values)
    return values, {k: origins[k] for k in alive if k in origins}


def to_yaml(values: dict[str, Any]) -> str:
    """Values as YAML text, keys in their order."""
    return (
        str(OmegaConf.to_yaml(OmegaConf.create(_protect(values)))).replace("\ue000", "${oc.env:").replace("\ue001", "}")
    )


def _resolve(config: DictConfig, origins: dict[str, Origin]) -> dict[str, Any]:
    raw = OmegaConf.to_container(config, resolve=False)
    assert isinstance(raw, dict)
    values: dict[str, Any] = {str(k): v for k, v in raw.items()}
    problems: list[Problem] = []
    sizes: dict[str, int] = {}
    for key, value in leaves(values).items():
        origin = origins.get(key)
        if "${" in str(value) and _too_long(values, key, sizes):
            place, layer = (origin.place, str(origin)) if origin else (None, "")
            what = f"{key}: the interpolation unfolds to more than {MAX_TEXT:,} characters"
            problems.append(Problem(what, key, place, layer, "write the text itself"))
            break
        if isinstance(value, str | list) and "${" in str(value):
            value = _interpolated(config, key, value, origin, problems)
        value = checks.as_written(key, _restore(value))
        *parents, last = key.split(".")
        node = lookup(values, ".".join(parents)) if parents else values
        node[last] = value
    if problems:
        raise RecipeError(*problems)
    return values


def _start_sources(
    config: DictConfig, values: dict[str, Any], layer: Layer, origins: dict[str, Origin], by: str
) -> list[Problem]:
    """Lets a source start anew: a text or list takes the place of a mapping, and a mapping with `source` that of another.

    A mapping without `source` changes settings of the source that lower layers name, be it a mapping, a text or a list of
    one, which becomes a mapping here and in `origins`. Of several sources it cannot tell which is meant: a problem.
    """
    problems = []
    for key in (*SOURCES, PROMPTS):
        section, name = key.split(".")
        given, there = lookup(values, key), config._get_node(section)
        if given is None or not isinstance(there, DictConfig) or there._is_none() or there._get_node(name) is None:
            continue
        if not isinstance(given, dict) or "source" in given:
            there[name] = None
            continue
        section_now: Any = OmegaConf.to_container(there, resolve=False)
        before = section_now[name]
        if isinstance(before, list) and len(before) > 1:
            problems.append(several_sources(key, len(before), given, layer.value_places.get(key), by))
        elif whole := one_source(before):
            there[name] = whole
            if key in origins:
                origin = origins.pop(key)
                origins.update({f"{key}.{inner}": replace(origin, value=value) for inner, value in whole.items()})
    return problems


def _inside(layer: Layer, key: str, value: Any) -> dict[str, Place]:
    if not isinstance(value, list):
        return {}
    return {k: v for k, v in layer.value_places.items() if k.startswith(f"{key}.")}


def _too_long(values: dict[str, Any], key: str, sizes: dict[str, int]) -> bool:
    try:
        return _size(values, key, sizes) > MAX_TEXT
    except RecursionError:  # a chain of references that long is none that a person wrote
        return True


def _size(values: dict[str, Any], key: str, sizes: dict[str, int]) -> int:
    """Characters that the value of a key has once its references are followed; a loop counts once: it is told elsewhere."""
    if key not in sizes:
        sizes[key] = 0
        value = lookup(values, key)
        inner = leaves(value).values() if isinstance(value, dict) else [value]
        text = " ".join(str(v) for v in inner)
        sizes[key] = len(text) + sum(_size(values, name, sizes) for name in _REFERENCE.findall(text))
    return sizes[key]


def _interpolated(config: DictConfig, key: str, value: Any, origin: Origin | None, problems: list[Problem]) -> Any:
    place, layer = (origin.place, str(origin)) if origin else (None, "")
    for resolver in _RESOLVER.findall(str(value)):
        problems.append(
            Problem(
                f"{key}: ${{{resolver}:...}} is not available in recipes",
                key,
                place,
                layer,
                "use ${section.key}, or ${oc.env:NAME} in paths",
            )
        )
        return value
    if "${" in _REFERENCE.sub("", str(value)):
        problems.append(
            Problem(f"{key}: {value!r} is not a valid interpolation", key, place, layer, "write ${section.key}")
        )
        return value
    try:
        found = OmegaConf.select(config, key, throw_on_missing=True)
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        missing = re.search(r"Interpolation key '([^']*)' not found", said)
        if missing:
            problems.append(_nowhere(config, key, missing[1], place, layer))
        elif "Recursive" in said or "recursion" in said.lower():
            problems.append(
                Problem(
                    f"{key}: the interpolation leads back to itself", key, place, layer, "give one of the keys a value"
                )
            )
        else:
            problems.append(
                Problem(f"{key}: {value!r} is not a valid interpolation", key, place, layer, "write ${section.key}")
            )
    except RecursionError:
        problems.append(
            Problem(f"{key}: the interpolation leads back to itself", key, place, layer, "give one of the keys a value")
        )
    return value


def _nowhere(config: DictConfig, key: str, wanted: str, place: Any, layer: str) -> Problem:
    from difflib import get_close_matches

    known = leaves({str(k): v for k, v in OmegaConf.to_container(config, resolve=False).items()})  # type: ignore[union-attr]
    near = get_close_matches(wanted, [k for k in known if k != key], n=1, cutoff=0.6)
    return Problem(
        f"{key}: ${{{wanted}}} leads nowhere",
        key,
        place,
        layer,
        f"did you mean ${{{near[0]}}}?" if near else f"no layer sets {wanted}",
    )


def _clashes(
    config: DictConfig, values: dict[str, Any], layer: Layer, n: int, of: int, prefix: str = ""
) -> list[Problem]:
    """Text, numbers or lists given where a section stands: OmegaConf would put them in its place without a word."""
    out: list[Problem] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        there = config._get_node(name)
        if not isinstance(there, DictConfig) or there._is_none() or there._is_interpolation() or value is None:
            continue
        if isinstance(value, dict):
            out += _clashes(there, value, layer, n, of, f"{key}.")
        elif not isinstance(value, str) or not value.startswith("${"):
            first = next((str(k) for k in there), "key")
            hint = f"set keys below it, such as {key}.{first}" + (
                ", or null to switch it off" if key in NULLABLE else ""
            )
            by = f"layer {n} of {of}: {layer.name}"
            out.append(
                Problem(
                    f"{key} is a section, not {told(value)}",
                    key,
                    layer.value_places.get(key),
                    by,
                    hint,
                )
            )
    return out


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _drop(config: DictConfig, key: str) -> bool:
    *parents, last = key.split(".")
    node: Any = config
    for part in parents:
        node = node._get_node(part) if isinstance(node, DictConfig) and not node._is_none() else None
    if not isinstance(node, DictConfig) or node._is_none() or node._get_node(last) is None:
        return False
    del node[last]
    return True


def _protect(value: Any) -> Any:
    """`${oc.env:NAME}` made opaque, so that OmegaConf does not read the environment."""
    if isinstance(value, dict):
        return {k: _protect(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_protect(v) for v in value]
    return _ENV.sub("\ue000\\1\ue001", value) if isinstance(value, str) and "${oc.env" in value else value


def _restore(value: Any) -> Any:
    if isinstance(value, list):
        return [_restore(v) for v in value]
    if isinstance(value, dict):
        return {k: _restore(v) for k, v in value.items()}
    return _ENV_KEPT.sub(r"${oc.env:\1}", value) if isinstance(value, str) else value
