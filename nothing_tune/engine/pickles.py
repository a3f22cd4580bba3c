"""Refuses weights that are pickles: reading one may run whatever program it holds. Light."""

from __future__ import annotations

from pathlib import Path

from nothing_tune.errors import UsageError

NAMES = ("adapter_model*.bin", "pytorch_model*.bin", "*.pkl", "*.ckpt")
"""What libraries fall back to where there is no safetensors file."""


def refuse(folder: Path) -> None:
    """Raises `UsageError` when weights in `folder`, an adapter, a model or a checkpoint, are stored as a pickle."""
    found = sorted(path.name for name in NAMES for path in folder.glob(name))
    if found:
        raise UsageError(
            f"{folder / found[0]} is a pickle, which may run programs when it is read: only safetensors are loaded",
            hint="remove it if the folder has the same weights as safetensors; otherwise convert it where you trust it",
        )
