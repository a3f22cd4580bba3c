"""What safetensors files hold, by their headers: light, nothing of the weights is read.

Format: eight bytes with the header's length, little-endian, then JSON
(https://huggingface.co/docs/safetensors, 2026).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from nothing_tune.errors import StorageError

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What torch calls the floating types of safetensors."""
LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


def header(path: Path) -> dict[str, dict[str, Any]]:
    """`{tensor: {"dtype", "shape", "data_offsets"}}` of a safetensors file, in the file's order.

    Raises:
        StorageError: The file is cut short or is no such file.
    """
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= LONGEST_HEADER:
                raise ValueError("the length of its header makes no sense")
            found = json.loads(handle.read(length))
            found.pop("__metadata__", None)
            end = max((int(facts["data_offsets"][1]) for facts in found.values()), default=0)
            if path.stat().st_size != 8 + length + end:
                raise ValueError(f"it has {path.stat().st_size:,} bytes, its header says {8 + length + end:,}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{path} is no whole safetensors file: {error}", hint="download or copy the file again"
        ) from error
    return dict(found)


def stored(folder: Path) -> tuple[int, str]:
    """`(bytes, dtype)` of all safetensors files in a folder: of all tensors, and the floating type of most bytes; `(0, "")` for none."""
    count: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        for facts in header(path).values():
            start, end = facts["data_offsets"]
            count[NAMES.get(str(facts["dtype"]), "")] += end - start
    floating = {name: size for name, size in count.items() if name}
    return sum(count.values()), max(floating, key=lambda name: floating[name], default="")
