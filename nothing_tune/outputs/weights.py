"""What safetensors files hold, by their headers: light, nothing of the weights is read.

Format: https://github.com/huggingface/safetensors#format (read 2026-11): eight bytes with the header's length, the header as
JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from nothing_tune.errors import StorageError

WIDTH = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of a number by the format's type."""
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What torch calls its floating types."""
LONGEST_HEADER = 100 * 2**20
"""Longest header that the format allows, in bytes."""


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: `dtype` as the format names it, `shape`, and the file's bytes from `begin` to `end`."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.begin


def header(path: Path) -> dict[str, Entry]:
    """The tensors of a file. `StorageError` where it is cut off or no safetensors file: all of it must be there."""
    cure = "fetch it again; nothing was made of it"
    try:
        with open(path, "rb") as handle:
            whole = os.fstat(handle.fileno()).st_size
            length = int.from_bytes(handle.read(8), "little")
            if whole < 8 or length > min(LONGEST_HEADER, whole - 8):
                raise StorageError(f"{path} is cut off or no safetensors file: it has {whole:,} bytes", hint=cure)
            read = json.loads(handle.read(length))
    except ValueError as error:
        raise StorageError(f"{path} is damaged: its header cannot be read", hint=cure) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}", hint=cure) from error
    start, out = 8 + length, {}
    try:
        for name, facts in read.items():
            if name != "__metadata__":
                begin, end = facts["data_offsets"]
                out[name] = Entry(str(facts["dtype"]), tuple(facts["shape"]), start + begin, start + end)
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} is damaged: its header cannot be read", hint=cure) from error
    expected = max((entry.end for entry in out.values()), default=start)
    if whole != expected:
        raise StorageError(f"{path} is damaged: it has {whole:,} bytes instead of {expected:,}", hint=cure)
    for name, entry in out.items():
        width = WIDTH.get(entry.dtype)
        if width is not None and prod(entry.shape) * width != entry.size:
            raise StorageError(f"{path} is damaged: {name} has {entry.size:,} bytes, which is not its shape", hint=cure)
    return out


def of_whole(base: str, config: Mapping[str, Any] | None, planned: str | None, trained: str = "bfloat16") -> str:
    """Type in which a model that was trained whole is exported, as torch calls it.

    Args:
        base: Type of most of the base's weights; empty where they are gone.
        config: config.json of the base; empty or None where that is gone, too.
        planned: Type in which the plan loads the base.
        trained: Type of what was trained.
    """
    named = str((config or {}).get("dtype") or (config or {}).get("torch_dtype") or "")
    return next(
        kind for kind in (base, named, planned, trained) if kind and (kind in FLOATS.values() or kind is trained)
    )


def stored(folder: Path) -> tuple[int, str]:
    """`(bytes, dtype)` of all safetensors files in a folder: of all tensors, and the floating type of most bytes; `(0, "")` for none."""
    count: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        for entry in header(path).values():
            count[FLOATS.get(entry.dtype, "")] += entry.size
    floating = {name: size for name, size in count.items() if name}
    return sum(count.values()), max(floating, key=lambda name: floating[name], default="")
