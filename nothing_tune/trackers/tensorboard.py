"""TensorBoard: event files in `tracking/tensorboard` of the run directory. See them with `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nothing_tune.errors import Problem


class _Writer:
    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._writer.add_text("run", name)
        lines = "\n".join(f"    {key}: {value}" for key, value in sorted(config.items()))
        self._writer.add_text("recipe", lines)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            part = "eval" if key.startswith("eval_") else "train"
            self._writer.add_scalar(f"{part}/{key.removeprefix('eval_')}", value, step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


def check(settings: Mapping[str, Any], env: Mapping[str, str]) -> list[Problem]:
    """The package must be there."""
    if find_spec("tensorboard") is None:
        return [
            Problem(
                "tracking.tracker is tensorboard, but the package tensorboard is not installed",
                key="tracking.tracker",
                hint="pip install tensorboard, or add tracking.tracker=none",
            )
        ]
    return []


def start(settings: Mapping[str, Any], run_id: str, name: str, config: Mapping[str, Any], folder: Path) -> _Writer:
    """Writes below `folder`; a resumed run adds a file, and steps that are logged again replace the earlier ones."""
    return _Writer(folder / "tensorboard", name, config, settings.get("resume_step"))
