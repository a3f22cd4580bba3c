"""What a recipe is once its layers are merged: values, and where each of them came from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nothing_tune.errors import Place, Problem


@dataclass(frozen=True)
class Layer:
    """One file, block or command-line word that sets values.

    Attributes:
        name: As people write it: `gpus/l4`, `recipes/marco.yaml`, `recipes/marco.yaml gpus.t4`, `command line`.
        values: Nested dicts of raw values (interpolations unresolved).
        places: Dotted key -> where that key stands in its file; empty for the command line. List items as `a.b.0`.
        value_places: Dotted key -> where the value starts (for messages about the value).
        replace: Sections that this layer starts anew instead of merging into.
        unset: Dotted keys that this layer removes.
        file: The file, None for the command line.
        own: Whether the person who trains named it: the recipe, a file of `--with`, the command line; not what these include.
        problems: What is wrong in the `gpus` and `scenarios` blocks of the file, chosen or not.
    """

    name: str
    values: dict[str, Any]
    places: dict[str, Place] = field(default_factory=dict)
    value_places: dict[str, Place] = field(default_factory=dict)
    replace: tuple[str, ...] = ()
    unset: tuple[str, ...] = ()
    file: Path | None = None
    own: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Which layer set a value.

    `layer` is the n-th of `of` layers (n from 1); `value` is as written there; `own` as `Layer.own`; `inside` has the places of
    what stands in a list, by dotted key (`data.train.0.weight`).
    """

    layer: str
    n: int
    of: int
    value: Any
    place: Place | None = None
    shadowed: tuple[Origin, ...] = ()
    own: bool = False
    inside: dict[str, Place] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        return f"layer {self.n} of {self.of}: {self.layer}"


@dataclass(frozen=True)
class Recipe:
    """A recipe with its layers merged, checked and interpolated. Nothing in it depends on the machine but `gpu`.

    Attributes:
        name: `name:` of the recipe, else the file's stem.
        path: The recipe's file; None when it was composed on the command line.
        values: Merged values as nested dicts; `${oc.env:NAME}` is left as written.
        origins: Dotted key of every leaf (scalar, list, null or empty dict) -> its origin.
        layers: The layers in the order in which they were merged.
        advice: Problems of severity `advice`.
    """

    name: str
    path: Path | None
    values: dict[str, Any]
    origins: dict[str, Origin]
    layers: tuple[Layer, ...]
    advice: tuple[Problem, ...] = ()

    def get(self, key: str, default: Any = None) -> Any:
        """Value at a dotted key, `default` where there is none."""
        return lookup(self.values, key, default)


def origin_of(origins: dict[str, Origin], key: str) -> Origin | None:
    """Origin of a dotted key: its own, that of a key below it, or that of the list that it stands in, with its own place there."""
    if key in origins:
        return origins[key]
    below = next((o for k, o in origins.items() if k.startswith(f"{key}.")), None)
    parent = key
    while below is None and "." in parent:
        parent = parent.rpartition(".")[0]
        holder = origins.get(parent)
        if holder is not None and isinstance(holder.value, list):
            return replace(holder, place=holder.inside.get(key, holder.place))
    return below


def lookup(values: dict[str, Any], key: str, default: Any = None) -> Any:
    """Value at a dotted key in nested dicts, `default` where there is none."""
    node: Any = values
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of everything that is no dict, and of empty dicts."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and value:
            out.update(leaves(value, path))
        else:
            out[path] = value
    return out
