"""Faults that are installed in a worker before it trains. Runs in children of the zygote only.

A fault is plain data, so that it travels as JSON:

    {"point": "forward", "nth": 3, "when": "before", "do": "signal", "number": 15, "rank": 0}

`point` names a call of the engine (`POINTS`), `nth` counts its calls from 1 within one attempt (`step` instead counts
optimizer steps done), `do` names an action (`ACTIONS`). A fault without a point acts as the worker starts.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import importlib
import io
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Fault = dict[str, Any]
KILLED = 137


def points() -> dict[str, tuple[Any, str]]:
    """Where faults can be attached: name -> (owner, attribute)."""
    from transformers.trainer_callback import CallbackHandler

    from nothing_tune.artifacts import checkpoint
    from nothing_tune.engine import build, handover, prepare
    from nothing_tune.engine.prepare import store
    from nothing_tune.engine.train import Trainer

    return {
        "data": (prepare, "load"),
        "load": (build, "model"),
        "tokenise": (store, "complete"),
        "forward": (Trainer, "training_step"),
        "loss": (Trainer, "compute_loss"),
        "step": (CallbackHandler, "on_step_end"),
        "save": (Trainer, "_save_checkpoint"),
        "commit": (checkpoint, "commit"),
        "evaluate": (Trainer, "prediction_step"),
        "handover": (handover, "hand_over"),
    }


def install(faults: list[Fault], rank: int) -> None:
    """Attaches `faults` (those meant for `rank`, 0 where they name none, every one for -1) to the engine in this process."""
    killer = Killer()
    for fault in faults:
        if fault.get("rank", 0) not in (rank, -1):
            continue
        action = ACTIONS[fault["do"]]
        if "point" not in fault:
            action(fault, killer, (), {})
        else:
            attach(fault, action, killer)


def attach(fault: Fault, action: Callable[..., Any], killer: Killer) -> None:
    """Wraps the call that `fault` names; the action may raise, end the process, or return a new result."""
    owner, name = points()[fault["point"]]
    original = getattr(owner, name)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        due = calls == fault["nth"] if "nth" in fault else calls in range(*fault["calls"]) if "calls" in fault else True
        if "step" in fault:
            due = due and any(getattr(getattr(a, "state", a), "global_step", None) == fault["step"] for a in args)
        if not due:
            return original(*args, **kwargs)
        if fault.get("when", "before") == "before":
            action(fault, killer, args, kwargs)
            return original(*args, **kwargs)
        result = original(*args, **kwargs)
        changed = action(fault, killer, args, kwargs, result)
        return result if changed is None else changed

    setattr(owner, name, wrapped)


class Killer:
    """A process beside the worker that kills it: at an instant that does not wait for Python to let go of anything."""

    def __init__(self) -> None:
        self.pipe: int | None = None

    def after(self, seconds: float) -> None:
        """Sends this process SIGKILL in so many seconds."""
        victim = os.getpid()
        if os.fork():
            return
        os.closerange(0, 1024)  # the run's lock among them
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            if os.getppid() == victim:
                os.kill(victim, signal.SIGKILL)
        os._exit(0)


def _kill(fault: Fault, killer: Killer, *_: Any) -> None:
    after = float(fault.get("after_s", 0.0))
    if after:
        killer.after(after)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def _signal(fault: Fault, *_: Any) -> None:
    number = int(fault.get("number", signal.SIGTERM))
    to = int(os.environ.get("TUNE_SUPERVISOR") or os.getpid()) if fault.get("to") == "supervisor" else os.getpid()
    os.kill(to, number)
    if to != os.getpid():
        time.sleep(fault.get("sleep_s", 0.2))  # the supervisor passes it on


def _sleep(fault: Fault, *_: Any) -> None:
    time.sleep(fault["sleep_s"])


def _wait(fault: Fault, *_: Any) -> None:
    """Makes the file `there`, and waits until the file `go` exists, a minute at most."""
    Path(fault["there"]).touch()
    end = time.monotonic() + 60
    while not Path(fault["go"]).exists() and time.monotonic() < end:
        time.sleep(0.01)


def _disk_full(fault: Fault, *_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _rows(inputs: Any) -> int:
    return int(inputs["input_ids"].shape[0])


def _out_of_memory(fault: Fault, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *__: Any) -> None:
    """Out of memory where the micro batch has more than `rows` rows; only in training where `training` says so."""
    import torch

    if "training" in fault and args[0].model.training != fault["training"]:
        return
    inputs = kwargs.get("inputs") or next(a for a in args if isinstance(a, dict) and "input_ids" in a)
    if _rows(inputs) > fault.get("rows", 0):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _seen_rows(fault: Fault, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *__: Any) -> None:
    """Appends the number of rows and tokens of a micro batch that was trained to a file."""
    inputs = kwargs.get("inputs") or next(a for a in args if isinstance(a, dict) and "input_ids" in a)
    with open(fault["file"], "a") as handle:
        handle.write(f"{_rows(inputs)} {int((inputs['labels'] != -100).sum())}\n")


def _memory_limit(fault: Fault, *_: Any) -> None:
    """From here on the process gets at most `mib` MiB more of address space, for real."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = size + int(fault["mib"] * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _eat_memory(fault: Fault, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *__: Any) -> None:
    """Allocates `mib_per_row` MiB for each row of the micro batch, and gives them back: what a longer row would need."""
    import torch

    inputs = kwargs.get("inputs") or next(a for a in args if isinstance(a, dict) and "input_ids" in a)
    torch.empty(int(_rows(inputs) * fault["mib_per_row"] * 2**20), dtype=torch.uint8)


def _nan_weights(fault: Fault, _: Any, args: tuple[Any, ...], *__: Any) -> None:
    import torch

    model = next(getattr(a, "model", a) for a in args if hasattr(getattr(a, "model", a), "named_parameters"))
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).view(-1)[0] = float("nan")


def _scale_loss(fault: Fault, _: Any, __: Any, kwargs: Any, result: Any = None) -> Any:
    """Multiplies the loss by `by`, NaN for instance."""
    by = float(fault.get("by", "nan"))
    return (result[0] * by, *result[1:]) if isinstance(result, tuple) else result * by


def _mark(fault: Fault, *_: Any) -> None:
    """Wraps the call `around` so that its begin and end are appended to a file."""
    owner, name = points()[fault["around"]]
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        handle = os.open(fault["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, b"E")
        try:
            return original(*args, **kwargs)
        finally:
            os.write(handle, b"X")
            os.close(handle)

    setattr(owner, name, wrapped)


def _die_at_write(fault: Fault, *_: Any) -> None:
    """From here on counts calls that change the disk, and ends the process at the `k`-th; the heartbeat is not counted.

    Files that are written outside Python (torch.save, safetensors) count twice: before, and with half of the file there.
    The names of the calls go to `file`, one a line.
    """
    seen = 0
    busy = threading.local()

    def strike(name: str, path: Any = None, torn: bool = False) -> None:
        nonlocal seen
        seen += 1
        if "file" in fault:
            with _open(fault["file"], "a") as handle:
                handle.write(f"{seen} {name} {Path(str(path)).name if path is not None else ''}\n")
        if seen == fault["k"]:
            if torn:
                os.truncate(path, os.path.getsize(path) // 2)
            os._exit(KILLED)

    _open = builtins.open

    def counted(module: Any, name: str, outside: bool = False, path_at: int = 0) -> None:
        original = getattr(module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread().name == "heartbeat" or getattr(busy, "inside", False):
                return original(*args, **kwargs)
            path = args[path_at] if len(args) > path_at else None
            if name == "open":
                mode = args[1] if len(args) > 1 else kwargs.get("mode", "r")
                writes = mode & (os.O_WRONLY | os.O_RDWR) if isinstance(mode, int) else set("wax+") & set(mode)
                if not writes:
                    return original(*args, **kwargs)
            busy.inside = True
            try:
                strike(name, path)
                result = original(*args, **kwargs)
                if outside and isinstance(path, str | os.PathLike):
                    strike(f"{name} torn", path, torn=True)
                return result
            finally:
                busy.inside = False

        setattr(module, name, wrapped)

    import safetensors.torch
    import torch

    from nothing_tune.engine.saving import Saver

    save = Saver.save

    def in_turn(self: Any, *args: Any, **kwargs: Any) -> None:
        """The commit, which goes on beside the training, is waited for, so that the calls have the same numbers every time."""
        save(self, *args, **kwargs)
        self.settle()

    Saver.save = in_turn  # type: ignore[method-assign]
    for name in (
        "replace",
        "rename",
        "unlink",
        "remove",
        "rmdir",
        "mkdir",
        "fsync",
        "write",
        "open",
        "link",
        "truncate",
    ):
        counted(os, name)
    counted(builtins, "open")
    counted(io, "open")
    counted(torch, "save", outside=True, path_at=1)
    plain = safetensors.torch.save_file
    counted(safetensors.torch, "save_file", outside=True, path_at=1)
    for module in list(sys.modules.values()):  # those that have bound it, under whatever name
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is plain and module is not safetensors.torch:
                setattr(module, name, safetensors.torch.save_file)


def _environment(fault: Fault, *_: Any) -> None:
    os.environ.update(fault["set"])


def _versions(fault: Fault, *_: Any) -> None:
    """Lets `package` seem to be installed in `version`."""
    from importlib import metadata

    original = metadata.version
    metadata.version = lambda name: fault["version"] if name == fault["package"] else original(name)  # type: ignore[assignment]


def _set(fault: Fault, *_: Any) -> None:
    """Sets `module:name` to `value`: a patience, for instance, that a test need not have."""
    module, name = fault["name"].split(":")
    setattr(importlib.import_module(module), name, fault["value"])


ACTIONS: dict[str, Callable[..., Any]] = {
    "sigkill": _kill,
    "signal": _signal,
    "sleep": _sleep,
    "wait": _wait,
    "disk-full": _disk_full,
    "out-of-memory": _out_of_memory,
    "count-rows": _seen_rows,
    "memory-limit": _memory_limit,
    "eat-memory": _eat_memory,
    "nan-weights": _nan_weights,
    "scale-loss": _scale_loss,
    "mark": _mark,
    "die-at-write": _die_at_write,
    "environment": _environment,
    "version": _versions,
    "set": _set,
}
