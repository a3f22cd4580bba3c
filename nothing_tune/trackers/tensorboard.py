"""TensorBoard: event files in `tracking/tensorboard` of the run directory. See them with `tensorboard --logdir runs`.

They are written with the package tensorboard's own writer, which needs neither torch nor tensorflow.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nothing_tune.errors import Problem


class _Writer:
    settles = "by step"

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any], from_step: int | None) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        new = not any(folder.glob("events.out.tfevents.*"))
        self._writer = EventFileWriter(str(folder))
        if from_step is not None and not new:
            # Readers drop what earlier files hold of this step and later ones: it follows here.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(event_pb2.Event(session_log=start), from_step)
        if new:
            self._text("run", name)
            self._text("recipe", "\n".join(f"    {key}: {value}" for key, value in sorted(config.items())))
        self._writer.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        values = []
        for key, value in metrics.items():
            part = "eval" if key.startswith("eval_") else "train"
            tag = f"{part}/{key.removeprefix('eval_')}"
            values.append(self._summary.Summary.Value(tag=tag, simple_value=float(value)))
        self._add(self._event.Event(summary=self._summary.Summary(value=values)), step)
        self._writer.flush()

    def summary(self, values: Mapping[str, Any]) -> None:
        self._text("result", "\n".join(f"    {key}: {value}" for key, value in values.items()))

    def finish(self) -> None:
        self._writer.close()

    def _text(self, tag: str, text: str) -> None:
        from tensorboard.compat.proto import tensor_pb2, tensor_shape_pb2, types_pb2

        shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=1)])
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[text.encode()], tensor_shape=shape)
        metadata = self._summary.SummaryMetadata(
            plugin_data=self._summary.SummaryMetadata.PluginData(plugin_name="text")
        )
        value = self._summary.Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
        self._add(self._event.Event(summary=self._summary.Summary(value=[value])), 0)

    def _add(self, event: Any, step: int) -> None:
        event.wall_time, event.step = time.time(), step
        self._writer.add_event(event)


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


def unreachable(settings: Mapping[str, Any], env: Mapping[str, str], timeout: float) -> str | None:
    """It needs no network."""
    return None


def start(settings: Mapping[str, Any], run_id: str, name: str, config: Mapping[str, Any], folder: Path) -> _Writer:
    """Writes below `folder`; a run that goes on adds a file, which replaces the steps from `from_step` on."""
    return _Writer(folder / "tensorboard", name, config, settings.get("from_step"))
