"""How large each output will be, and how much of the disk is needed while it is made. Known before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.outputs import quantizations
from nothing_tune.outputs.wanted import Wanted
from nothing_tune.plan.architecture import Unlisted, shape

WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
"""Bytes of a number by dtype."""


@dataclass(frozen=True)
class Size:
    """An output and its size.

    Attributes:
        output: `adapter`, `merged`, the name of a GGUF type, or `adapter-f16`.
        bytes: Expected size; None where it cannot be told.
        kept: False for what is needed on the way and removed at the end.
        note: What to know about it; empty for nothing.
    """

    output: str
    bytes: int | None
    kept: bool = True
    note: str = ""


def sizes(
    wanted: Wanted,
    config: Mapping[str, Any] | None,
    dtype: str,
    adapter_bytes: int | None,
    merged_bytes: int | None = None,
    full: bool = False,
    own_dtype: str = "",
    beside: int = 0,
) -> list[Size]:
    """What is made for `wanted`, in the order in which it is made.

    Args:
        config: config.json of the base; None where it is not known.
        dtype: Type of the base's weights as they are stored.
        adapter_bytes: Size of the run's adapter, or of the whole model after full fine-tuning.
        merged_bytes: Size of the base's own files where they are on this disk; None to count from `config`.
        full: Whether the run trained the whole model.
        own_dtype: Type of what the run handed over; a whole model is exported in `dtype`. Empty for the same.
        beside: Bytes of what goes with the weights: tokenizer, template, settings.
    """
    out = [] if full else [Size("adapter", None if adapter_bytes is None else adapter_bytes + beside)]
    if full:
        merged_bytes = adapter_bytes
        if adapter_bytes is not None and own_dtype:
            merged_bytes = adapter_bytes * WIDTH.get(dtype, 2) // WIDTH.get(own_dtype, WIDTH.get(dtype, 2))
    elif merged_bytes is None and config is not None:
        try:
            merged_bytes = shape(config).parameters * WIDTH.get(dtype, 2)
        except Unlisted:
            merged_bytes = None
    if wanted.merged or wanted.gguf or full:
        out.append(Size("merged", merged_bytes, kept=wanted.merged or full))
    whole = between(dtype)
    if any(name not in quantizations.UNQUANTISED for name in wanted.gguf) and whole not in wanted.gguf:
        out.append(Size(whole, _gguf(config, whole), kept=False))
    out.extend(Size(name, _gguf(config, name), note=_note(config, name)) for name in wanted.gguf)
    if wanted.gguf_adapter:
        halves = None if adapter_bytes is None else 2 * adapter_bytes // WIDTH.get(own_dtype, 2)
        out.append(Size("adapter-f16", halves))
    return out


def between(dtype: str) -> str:
    """GGUF type that holds weights of `dtype` as they are: what quantised files are made from."""
    return {"bfloat16": "bf16", "float16": "f16"}.get(dtype, "f32")


def total(found: list[Size]) -> int | None:
    """Bytes of the disk that all of them need together while they are made; None where one is not known."""
    known = [one.bytes for one in found]
    return None if None in known else sum(count for count in known if count is not None)


def _gguf(config: Mapping[str, Any] | None, name: str) -> int | None:
    try:
        return quantizations.size(config, name) if config is not None else None
    except Unlisted:
        return None


def _note(config: Mapping[str, Any] | None, name: str) -> str:
    """What is known beforehand of matrices that cannot take this type; empty for none, or where nothing is known."""
    try:
        found = quantizations.fallbacks(config, name) if config is not None else []
    except Unlisted:
        return ""
    return f"{name}: {'; '.join(map(str, found))}: the file is larger than usual" if found else ""
