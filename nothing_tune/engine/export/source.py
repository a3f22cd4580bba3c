"""What an export starts from: the weights of one committed step of a run, as a plain adapter, and the base they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.plan.model import Plan


@dataclass(frozen=True)
class Source:
    """The weights that are exported.

    Attributes:
        run: The run.
        plan: Its plan, with the environment's values in it.
        step: Optimizer step of the weights.
        folder: `exports/step-N/` of the run, or the folder that `--to` names: all outputs are made in it.
        weights: What was committed: `adapter/` or `checkpoints/checkpoint-N/` of the run.
        full: Whether the run trained the whole model, so that there is no adapter.
        facts: `source` of the manifests: `{"run", "path", "step", "digest", "base": {...}}`.
    """

    run: Run
    plan: Plan
    step: int
    folder: Path
    weights: Path
    full: bool
    facts: dict[str, Any]

    @property
    def adapter(self) -> Path:
        """Folder of the exported adapter: plain weights, tokenizer, generation config. The whole model where `full`."""
        return self.folder / ("merged" if self.full else "adapter")


@dataclass(frozen=True)
class Base:
    """The base model's files, not quantised, on this disk.

    Attributes:
        folder: Holds config.json, the tokenizer and the weights.
        config: config.json.
        dtype: Type of the weights as they are stored (`bfloat16`).
        files: File name of each tensor.
        revision: Commit on the hub; empty for a folder.
        licence: As its card names it; empty where unknown.
    """

    folder: Path
    config: dict[str, Any]
    dtype: str
    files: dict[str, str]
    revision: str = ""
    licence: str = ""
