"""What is known of one run, read once from its files, damaged ones passed over and named. Changes nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, attempts, checkpoint
from nothing_tune.run.control import holder
from nothing_tune.run.doctor.numbers import finite

LOG_BYTES = 1 << 16
"""How much of the end of engine.log is read."""
HASHED_BYTES = 1 << 30
"""Checkpoints up to this size are read whole to see whether they are what was written; of larger ones only that they were completed."""
HASHED = 3
"""At most so many of the newest checkpoints are read."""


@dataclass(frozen=True)
class Log:
    """One logged training step. What was not logged is None, and so is a loss or norm that was not finite: JSON has no NaN.

    `lost` says that the loss or the norm was logged and was not finite.
    """

    step: int
    epoch: float | None
    time: float
    loss: float | None
    grad_norm: float | None
    learning_rate: float | None
    tokens_per_s: float | None
    memory_gib: float | None
    lost: bool


@dataclass(frozen=True)
class Evaluation:
    """One evaluation; `seconds` is how long it took, None where that is not known."""

    step: int
    epoch: float | None
    loss: float
    seconds: float | None


@dataclass(frozen=True)
class Record:
    """A run as its files tell it.

    Attributes:
        name: What names the run in a command.
        state: As `Run.state`, `damaged` where plan.json cannot be read.
        logs: Logged steps, ascending; what a resumed run did again counts once, the newest.
        evaluations: Likewise, that of step 0 included.
        events: Kind -> its events, in order, without `log` and `eval`.
        phase: The last phase that began, as the engine names it; empty before the first.
        tail: The last lines of engine.log.
        faults: Step -> why its checkpoint is damaged; None where it is whole or was not read.
        damaged: File -> why it cannot be read.
        held: Who works on the run, see `control.holder`; None when nobody does.
        now: When it was looked, in Unix seconds.
    """

    run: Run
    name: str
    state: str
    plan: Mapping[str, Any]
    status: Mapping[str, Any]
    result: Mapping[str, Any]
    lock: Mapping[str, Any]
    attempts: tuple[Mapping[str, Any], ...]
    logs: tuple[Log, ...]
    evaluations: tuple[Evaluation, ...]
    events: Mapping[str, list[dict[str, Any]]]
    phase: str
    tail: tuple[str, ...]
    saved: tuple[int, ...]
    faults: Mapping[int, str | None]
    damaged: Mapping[str, str]
    adjustments: tuple[Mapping[str, Any], ...]
    held: Mapping[str, Any] | None
    now: float = field(default_factory=time.time)

    @property
    def training(self) -> Mapping[str, Any]:
        """The plan's keyword arguments of SFTConfig, with what out of memory changed."""
        out = dict(self.plan.get("training") or {})
        for entry in self.adjustments:
            out |= dict(entry.get("training") or {})
        return out

    @property
    def problem(self) -> Mapping[str, Any]:
        """What went wrong by the result: `{what, hint, key, ...}`; empty when nothing did."""
        error = self.result.get("error")
        problems = (error.get("problems") if isinstance(error, dict) else None) or []
        if problems and isinstance(problems[0], dict):
            return dict(problems[0])
        last = self.attempts[-1] if self.attempts and not self.result else {}
        return {"what": str(last["error"])} if last.get("error") and last.get("exit_code") else {}

    @property
    def code(self) -> int | None:
        """The exit code of the result, else that of the last attempt; None while there is none."""
        for value in (self.result.get("exit_code"), (self.attempts[-1] if self.attempts else {}).get("exit_code")):
            if isinstance(value, int):
                return value
        return None

    @property
    def step(self) -> int:
        """The last step that is known to have been reached."""
        known = [
            self.status.get("step"),
            self.result.get("step"),
            *(log.step for log in self.logs[-1:]),
            *self.saved[-1:],
        ]
        return max((int(s) for s in known if isinstance(s, int)), default=0)

    @property
    def total(self) -> int | None:
        """Steps of the whole run; None before the training began."""
        value = self.status.get("total_steps")
        return int(value) if isinstance(value, int) and value > 0 else None

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest loss; None without any."""
        return min(self.evaluations, key=lambda e: (e.loss, e.step), default=None)

    @property
    def evaluates(self) -> bool:
        """Whether the plan has data to evaluate on and says when."""
        return (
            bool((self.plan.get("data") or {}).get("eval")) and str(self.training.get("eval_strategy") or "no") != "no"
        )

    @property
    def on_gpu(self) -> bool:
        """Whether the training itself said that it runs on a GPU, else whether the plan is for one."""
        told = [str(e.get("device") or "") for e in self.events.get("start", [])]
        if told:
            return told[-1].startswith(("cuda", "mps"))
        return str((self.plan.get("gpu") or {}).get("name") or "cpu") != "cpu"


def read(run: Run, name: str = "") -> Record:
    """Reads a run; `name` is what names it in commands (its id by default)."""
    damaged: dict[str, str] = {}

    def of(file: str) -> dict[str, Any]:
        found, why = attempts.salvage(run.path / file)
        if why:
            damaged[file] = why
        return found or {}

    plan, status, result, lock = (of(f) for f in ("plan.json", "status.json", "result.json", "lock.json"))
    adjusted, why = attempts.adjustments(run)
    if why:
        damaged[attempts.ADJUSTMENTS] = why
    logs, evaluations, events, phase = _events(run)
    state = "damaged" if not plan else run.state()
    saved = tuple(checkpoint.complete(run.checkpoints))
    return Record(
        run, name or run.id, state, plan, status, result, lock, tuple(attempts.all(run)), logs, evaluations, events, phase,
        _tail(run.path / "engine.log"), saved, _faults(run), damaged, tuple(a for a in adjusted if isinstance(a, dict)),
        holder(run) if (run.path / "plan.json").exists() else None,
    )  # fmt: skip


def _events(run: Run) -> tuple[tuple[Log, ...], tuple[Evaluation, ...], dict[str, list[dict[str, Any]]], str]:
    logs: list[Log] = []
    evaluations: list[Evaluation] = []
    others: dict[str, list[dict[str, Any]]] = {}
    phase = ""
    try:
        for event, _ in run.events():
            kind = str(event.get("type"))
            step = event.get("step")
            if kind == "log" and isinstance(step, int):
                while logs and logs[-1].step >= step:
                    logs.pop()
                logs.append(_log(event, step))
            elif kind == "eval" and isinstance(step, int):
                while evaluations and evaluations[-1].step >= step:
                    evaluations.pop()
                metrics = event.get("metrics") or {}
                loss, seconds = metrics.get("eval_loss", event.get("eval_loss")), metrics.get("eval_runtime")
                if finite(loss):
                    took = float(seconds) if finite(seconds) else None
                    evaluations.append(Evaluation(step, event.get("epoch"), float(loss), took))
            elif kind not in ("log", "eval"):
                others.setdefault(kind, []).append(event)
                phase = str(event.get("phase") or phase) if kind == "phase" else phase
    except OSError:
        pass
    return tuple(logs), tuple(evaluations), others, phase


def _log(event: dict[str, Any], step: int) -> Log:
    metrics = event.get("metrics") or {}

    def number(value: Any) -> float | None:
        return float(value) if finite(value) else None

    lost = any(k in metrics and metrics[k] is None for k in ("loss", "grad_norm"))
    return Log(
        step, number(event.get("epoch")), number(event.get("time")) or 0.0, number(metrics.get("loss", event.get("loss"))),
        number(metrics.get("grad_norm")), number(metrics.get("learning_rate")), number(event.get("tokens_per_s")),
        number(event.get("memory_gib")), lost,
    )  # fmt: skip


def _tail(path: Path) -> tuple[str, ...]:
    """The last lines of a log, of progress bars only their last state."""
    try:
        with open(path, "rb") as handle:
            handle.seek(max(os.fstat(handle.fileno()).st_size - LOG_BYTES, 0))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return ()
    lines = (line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n"))
    return tuple(line for line in lines if line.strip())


def _faults(run: Run) -> dict[int, str | None]:
    out: dict[int, str | None] = {}
    for step in reversed(checkpoint.steps(run.checkpoints)):
        folder = run.checkpoints / f"checkpoint-{step}"
        if not (folder / checkpoint.COMMIT).is_file():
            out[step] = "it was never completed"
            continue
        with contextlib.suppress(OSError):
            size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            small = size <= HASHED_BYTES and sum(1 for why in out.values() if why is None) < HASHED
            out[step] = checkpoint.fault(folder) if small else None
    return dict(sorted(out.items()))
