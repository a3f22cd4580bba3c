"""Turns whatever ended a run into its result: problems a person can act on, and an exit code."""

from __future__ import annotations

import errno
import re
import signal
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nothing_tune.artifacts.redact import redact_all
from nothing_tune.data.hub import chain, words
from nothing_tune.errors import Diverged, OutOfMemory, Problem, RunError, StorageError, TuneError

_HERE = str(Path(__file__).parent.parent)
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}

_NO_MEMORY = re.compile(
    r"\b(?:CUDA|HIP|XPU|NPU|MLU|MPS backend)\b[^\n]{0,60}\bout of memory\b"  # "CUDA error: out of memory" is one of them
    r"|\bDefaultCPUAllocator: (?:can't allocate memory|not enough memory)"
    r"|\bstd::bad_alloc\b"
    r"|\bCU[A-Z]+_STATUS_ALLOC_FAILED\b|\bHIPBLAS_STATUS_ALLOC_FAILED\b"
    r"|\bFailed to (?:CUDA )?[cm]alloc\b",
    re.IGNORECASE,
)
"""How libraries that raise RuntimeError say that memory was refused."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` itself says that memory was refused, on the GPU or the host. The bare words in another error do not count."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, RecursionError)
        and bool(_NO_MEMORY.search(str(error)))
    )


_WRITER = ("PytorchStreamWriter failed", "No space left on device", "unexpected pos", "iostream error")
"""What torch and safetensors say when a write fails; the reason of the system is lost on the way."""


def explain(error: BaseException) -> TuneError:
    """`error` as a TuneError: itself if it is one, out of memory, storage, or a failed run with the library's own words."""
    for cause in chain(error):
        if isinstance(cause, TuneError):
            return cause
        if out_of_memory(cause):
            return OutOfMemory(
                f"out of memory: {words(cause)}",
                hint="halve per_device_train_batch_size and double gradient_accumulation_steps, or lower max_length (all in training)",
            )
        if isinstance(cause, OSError) and cause.errno in _DISK:
            return StorageError(
                f"the disk refused to write{f' {cause.filename}' if cause.filename else ''}: {cause.strerror}",
                hint="free some space; the checkpoints committed so far are whole, and tune resume continues there",
            )
        if any(said in str(cause) for said in _WRITER):
            return StorageError(
                "the disk refused to write: it is full or failing",
                hint="free some space; the checkpoints committed so far are whole, and tune resume continues there",
            )
    frames = traceback.extract_tb(error.__traceback__)
    own = bool(frames) and frames[-1].filename.startswith(_HERE)
    what = f"{type(error).__name__}: {words(error)}"
    if own:
        return TuneError(Problem(f"a bug in nothing-tune: {what}", hint="please report it with the run's engine.log"))
    return RunError(Problem(what, hint="engine.log in the run directory has the whole story"))


def report(error: BaseException) -> tuple[int, dict[str, Any]]:
    """`(exit code, error)` for result.json, without secrets; the traceback is kept for all that is no plain problem of the user's."""
    known = explain(error)
    out: dict[str, Any] = {"problems": [p.to_json() for p in known.problems]}
    if known is not error:
        out["traceback"] = "".join(traceback.format_exception(error))
    return known.exit_code, redact_all(out)


LOOP = 3
"""Attempts in a row that end with the same error at the same step before a run is not tried again."""
OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that come from outside: they say nothing about the run."""
_CHANGING = re.compile(r"0x[0-9a-f]+|\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)


def is_loop(before: Sequence[dict[str, Any]], result: dict[str, Any]) -> bool:
    """Whether `result` ends the third attempt in a row with the same error at the same step, and none got further between.

    Args:
        before: The attempts before, the first one first, as in `attempts/`. What a signal from outside ended is passed over.
        result: `exit_code`, `step`, `error` and, for a worker that a signal killed, `signal`.
    """
    what, step, times = what_of(result), result.get("step") or 0, 1
    if not what or not _counts(result):
        return False
    for entry in reversed(before):
        if (entry.get("step") or 0) > step:
            return False
        if not entry.get("ended") or not _counts(entry):
            continue
        if (entry.get("step") or 0) != step or _normal(str(entry.get("error"))) != _normal(what):
            return False
        times += 1
        if times == LOOP:
            return True
    return False


def what_of(result: dict[str, Any]) -> str:
    """What went wrong in a result, its first problem; empty when nothing did."""
    error = result.get("error")
    problems = error.get("problems") if isinstance(error, dict) else None
    return str(problems[0].get("what", "")) if problems else ""


def _counts(ended: dict[str, Any]) -> bool:
    codes = (TuneError.exit_code, RunError.exit_code, Diverged.exit_code)
    return ended.get("exit_code") in codes and ended.get("signal") not in OUTSIDE


def _normal(what: str) -> str:
    """The first line of an error without what changes from one time to the next: addresses and numbers."""
    return _CHANGING.sub("#", next(iter(what.strip().splitlines()), ""))
