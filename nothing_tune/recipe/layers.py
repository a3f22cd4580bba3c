"""Finds a recipe's layers and puts them in order: which file, block or word sets values, and which of them wins."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nothing_tune.errors import Place, Problem, RecipeError
from nothing_tune.recipe import checks
from nothing_tune.recipe.library import LAYER_KINDS, find_layer, find_named, label, library_root, names
from nothing_tune.recipe.model import Layer, lookup
from nothing_tune.recipe.reader import read_file, read_value
from nothing_tune.recipe.schema import PROMPTS, SOURCES
from nothing_tune.recipe.sources import one_source, several_sources

GRAMMAR = ("layers", "replace", "gpus", "scenarios")
"""Keys that steer the merge and are no values of the recipe."""
PATH_KEYS = (
    *SOURCES,
    "data.sample.train",
    "data.sample.eval",
    "data.sample.prompts",
    "data.chat_template",
    "model.name_or_path",
    PROMPTS,
    "generate.output",
    "generate.generator.model",
)
"""Keys whose relative paths are meant relative to the file that holds them."""


def expand(
    path: Path, within: tuple[Path, ...] = (), seen: set[Path] | None = None
) -> list[tuple[Layer, dict[str, Any]]]:
    """The layers under `path`, depth first, `path` itself last; a file named twice counts where it comes first.

    Returns:
        Pairs of a layer (its values without the keys of `GRAMMAR`) and the raw values of the file.

    Raises:
        RecipeError: A layer is missing or includes itself, or a file has problems; all those found.
    """
    seen = set() if seen is None else seen
    if path in seen:
        return []
    seen.add(path)
    values, places, value_places = read_file(path)
    problems: list[Problem] = []
    out: list[tuple[Layer, dict[str, Any]]] = []
    for index, name in enumerate(_words(values.get("layers"), "layers", places, problems)):
        place = places.get(f"layers.{index}")
        try:
            below = find_layer(name, path, place, label(path))
            if below in (*within, path):
                chain = " -> ".join(label(p) for p in (*within, path, below))
                raise RecipeError(
                    Problem(f"layers include each other: {chain}", "layers", place, hint="remove one of them")
                )
            out += expand(below, (*within, path), seen)
        except RecipeError as error:
            problems += error.problems
    anew = _words(values.get("replace"), "replace", places, problems)
    if problems:
        raise RecipeError(*problems)
    own = {k: v for k, v in values.items() if k not in GRAMMAR}
    _resolve_paths(own, path)
    blocks = [p for block in ("gpus", "scenarios") for p in _block_problems(values, block, places, value_places)]
    layer = Layer(label(path), own, places, value_places, tuple(anew), file=path, problems=tuple(blocks))
    return [*out, (layer, values)]


def order(
    path: Path,
    gpu: str | None,
    scenario: str | None,
    with_: Sequence[str],
    overrides: Sequence[str],
    unset: Sequence[str],
    machine: dict[str, Any] | None,
) -> tuple[list[Layer], str]:
    """All layers of a recipe in the order in which they are merged, later wins, and the name of the GPU.

    A layer of the library that is named in place of a recipe (`base/qlora`) goes below the GPU, as it does under a recipe;
    a recipe without a name is called as its file is. The GPU is `gpu`, else the one that the recipe itself names in
    `gpu.name`, else that of this `machine`, else `cpu`.
    """
    seen: set[Path] = set()
    files = expand(path, seen=seen)
    named = next((v for _, raw in reversed(files) if (v := lookup(raw, "gpu.name"))), None)
    chosen = gpu or (named if isinstance(named, str) else None) or (machine or {}).get("name") or "cpu"

    is_layer = path.parent.parent == library_root() and path.parent.name in LAYER_KINDS
    *below, (body, _) = files
    out = [layer for layer, _ in below] + ([replace(body, own=True)] if is_layer else [])
    out += _library_layer("gpus", chosen, files)
    if machine and machine.get("name") == chosen and machine.get("facts"):
        out.append(Layer("this machine", {"gpu": dict(machine["facts"])}))
    if not is_layer:
        named_by_file = {} if "name" in body.values else {"name": path.stem}
        out.append(replace(body, values={**named_by_file, **body.values}, own=True))
    out += _blocks("gpus", chosen, files)
    if scenario:
        out += _library_layer("scenarios", scenario, files)
        out += _blocks("scenarios", scenario, files)
    for name in with_:
        extra = find_layer(name, None, None)
        stack = expand(extra, seen=seen - {extra})
        out += [replace(layer, own=raw is stack[-1][1]) for layer, raw in stack]
        out += [
            b
            for block, value in (("gpus", chosen), ("scenarios", scenario or ""))
            for b in _blocks(block, value, stack)
        ]
    words = _command_line(overrides, unset)
    if words:
        out.append(words)
    return out, str(chosen)


def _library_layer(kind: str, name: str, files: list[tuple[Layer, dict[str, Any]]]) -> list[Layer]:
    also = [str(n) for _, raw in files for n in (raw.get(kind) or {})]
    found = find_named(kind, name, also)
    if found is None:
        return []
    return [layer for layer, _ in expand(found)]


def _blocks(block: str, name: str, files: list[tuple[Layer, dict[str, Any]]]) -> list[Layer]:
    """The layers made of `block.name` in each of the files that has one; the last of `files` is what was named."""
    out = []
    for layer, raw in files:
        values = lookup(raw, f"{block}.{name}") if name else None
        if not isinstance(values, dict):
            continue
        prefix = f"{block}.{name}."
        own = {k: v for k, v in values.items() if k not in GRAMMAR}
        _resolve_paths(own, layer.file)
        anew = tuple(str(v) for v in values.get("replace") or ())
        cut = len(prefix)
        out.append(
            Layer(
                f"{layer.name} {block}.{name}",
                own,
                {k[cut:]: v for k, v in layer.places.items() if k.startswith(prefix)},
                {k[cut:]: v for k, v in layer.value_places.items() if k.startswith(prefix)},
                anew,
                file=layer.file,
                own=raw is files[-1][1],
            )
        )
    return out


def _block_problems(
    values: dict[str, Any], block: str, places: dict[str, Place], value_places: dict[str, Place]
) -> list[Problem]:
    content = values.get(block)
    if content is None:
        return []
    if not isinstance(content, dict):
        return [
            Problem(
                f"{block} must map names to overrides",
                block,
                places.get(block),
                hint=f"write `{block}: {{NAME: {{training: {{...}}}}}}`",
            )
        ]
    problems: list[Problem] = []
    for name, body in content.items():
        key = f"{block}.{name}"
        if block == "gpus" and name not in names("gpus"):
            try:
                find_named("gpus", str(name))
            except RecipeError as error:
                problems.append(Problem(error.problems[0].what, key, places.get(key), hint=error.problems[0].hint))
        if block == "scenarios" and (alike := _misspelt(str(name), names("scenarios"))):
            what = f"{key} is a scenario of this recipe alone: the library has none of that name"
            problems.append(Problem(what, key, places.get(key), hint=f"did you mean {alike}?", severity="advice"))
        if body is not None and not isinstance(body, dict):
            problems.append(
                Problem(f"{key} must be a mapping of overrides", key, places.get(key), hint="indent its keys below it")
            )
        elif body:
            problems += checks.check_blocks(
                {k: v for k, v in body.items() if k != "replace"}, f"{key}.", places, value_places
            )
    return problems


def _misspelt(name: str, known: list[str]) -> str:
    """The one of `known` that `name` is a slip of; empty for a name of one's own."""
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.75)
    return near[0] if near and name not in known else ""


def _words(value: Any, key: str, places: dict[str, Place], problems: list[Problem]) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return list(value)
    problems.append(
        Problem(f"{key} must be a list of names", key, places.get(key), hint=f"write `{key}: [name, other-name]`")
    )
    return []


def _resolve_paths(values: dict[str, Any], file: Path | None) -> None:
    """Makes relative paths absolute where they exist beside `file`, in the current folder or in the library; all others stay as written."""
    for key in PATH_KEYS:
        *parents, last = key.split(".")
        node: Any = values
        for part in parents:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            continue
        written = node[last]
        if isinstance(written, str):
            node[last] = _existing(written, file)
        elif isinstance(written, list):
            node[last] = [_source(v, file) for v in written]
        elif isinstance(written, dict):
            node[last] = _source(written, file)


def _source(written: Any, file: Path | None) -> Any:
    """A text, or the `source` of a mapping, with its path made absolute."""
    if isinstance(written, dict) and isinstance(written.get("source"), str):
        return {**written, "source": _existing(written["source"], file)}
    return _existing(written, file) if isinstance(written, str) else written


def _existing(written: str, file: Path | None) -> str:
    if not written or "${" in written:
        return written
    path = Path(written).expanduser()
    if path.is_absolute():
        return str(path)
    for folder in ([file.parent] if file else []) + [Path.cwd(), library_root()]:
        there = Path(os.path.normpath(folder / path)).absolute()
        if there != folder and (
            next(folder.glob(written), None) if any(c in written for c in "*?[") else there.exists()
        ):
            return str(there)
    return written


def _command_line(overrides: Sequence[str], unset: Sequence[str]) -> Layer | None:
    values: dict[str, Any] = {}
    removed = [*unset]
    problems: list[Problem] = []
    for word in overrides:
        if word.startswith("~"):
            removed.append(word[1:])
            continue
        key, equals, text = word.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            problems.append(
                Problem(
                    f"{word!r} is no override",
                    hint="write key=value, such as training.learning_rate=1e-4, or ~key to remove it",
                )
            )
            continue
        try:
            value = read_value(text)
        except ValueError as error:
            problems.append(Problem(f"{word!r}: {error}", key, hint="quote the value for the shell: 'key=\"value\"'"))
            continue
        if value is None and not text.strip():
            problems.append(
                Problem(f"{word!r} has no value", key, hint=f"{key}=null switches it off, ~{key} removes it")
            )
            continue
        node = values
        source = ".".join(parts[:-1])
        if source in (*SOURCES, PROMPTS):
            named = lookup(values, source)
            if whole := one_source(named):
                values[parts[0]][parts[1]] = whole
            elif isinstance(named, list) and len(named) > 1:
                problems.append(several_sources(source, len(named), {parts[-1]: value}))
                continue
        for part in parts[:-1]:
            below = node.setdefault(part, {})
            if not isinstance(below, dict):
                problems.append(
                    Problem(f"{word!r}: {part} was given a value by another override", key, hint="give one of the two")
                )
                break
            node = below
        else:
            more = node.get(parts[-1])
            short = one_source(value) if key.strip() in (*SOURCES, PROMPTS) and isinstance(more, dict) else None
            node[parts[-1]] = {**short, **more} if short and more else value
    if problems:
        raise RecipeError(*problems)
    _resolve_paths(values, None)
    return Layer("command line", values, unset=tuple(removed), own=True) if values or removed else None
