"""A merged model as a GGUF file of 16 or 32 bits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nothing_tune.engine.export.gguf import process, sources
from nothing_tune.engine.job import Send
from nothing_tune.errors import UsageError
from nothing_tune.outputs import quantizations


def convert(model: Path, out: Path, type_: str, send: Send, name: str = "") -> dict[str, Any]:
    """Writes the model in `model` to `out`, and returns what was written of its tokenizer.

    Args:
        model: Folder with config.json, tokenizer and safetensors.
        out: The file; it is there only when it is whole.
        type_: `f16`, `bf16` or `f32`.
        send: Told of progress and of what cannot be as transformers has it.
        name: What the file calls the model (`general.name`); empty for the file's own name without its type.

    Returns:
        `{"pre", "model"}` (llama.cpp's names for the way text is split), `{"bos", "eos"}` (whether it puts them around plain
        text), `{"stops"}` (ids that end an answer) and `{"differs"}` (rare texts that llama.cpp splits otherwise: those that the
        tokenizer normalises first, and special tokens that take the spaces around them).

    Raises:
        UsageError: There is no converter, or it has no form for this architecture.
        RunError: It has none for this tokenizer, or failed; its last words are in the text.
        StorageError: The disk is full.
    """
    if type_ not in quantizations.UNQUANTISED:
        raise UsageError(
            f"{type_} is made from a file of 16 bits", hint=f"first {' or '.join(quantizations.UNQUANTISED)}"
        )
    tree = sources.tree()
    name = name or re.sub(rf"-{type_}$", "", out.stem.lstrip("."))
    with process.whole(out) as path:
        request = {"model": str(model.absolute()), "out": str(path.absolute()), "type": type_, "name": name}
        done = process.run("driver", request, on=lambda event: send(**event), source=tree, where=out.parent)
    return {k: v for k, v in done.items() if k != "type"}
