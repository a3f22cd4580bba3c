"""Turns whatever ended a run into its result: problems a person can act on, and an exit code."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path
from typing import Any

from nothing_tune.engine.hub import chain
from nothing_tune.errors import OutOfMemory, Problem, RunError, StorageError, TuneError

_HERE = str(Path(__file__).parent.parent)
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}


def explain(error: BaseException) -> TuneError:
    """`error` as a TuneError: itself if it is one, out of memory, storage, or a failed run with the library's own words."""
    for cause in chain(error):
        if isinstance(cause, TuneError):
            return cause
        if type(cause).__name__ in ("OutOfMemoryError", "MemoryError") or "out of memory" in str(cause).lower():
            return OutOfMemory(
                f"out of memory: {_first_line(cause)}",
                hint="halve per_device_train_batch_size and double gradient_accumulation_steps, or lower max_length (all in training)",
            )
        if isinstance(cause, OSError) and cause.errno in _DISK:
            return StorageError(
                f"the disk refused to write{f' {cause.filename}' if cause.filename else ''}: {cause.strerror}",
                hint="free some space; the checkpoints committed so far are whole, and tune resume continues there",
            )
        if "PytorchStreamWriter failed" in str(cause) or "No space left on device" in str(cause):
            return StorageError(
                f"the disk refused to write: {_first_line(cause)}", hint="free some space, then tune resume"
            )
    frames = traceback.extract_tb(error.__traceback__)
    own = bool(frames) and frames[-1].filename.startswith(_HERE)
    what = f"{type(error).__name__}: {_first_line(error)}"
    if own:
        return TuneError(Problem(f"a bug in nothing-tune: {what}", hint="please report it with the run's engine.log"))
    return RunError(Problem(what, hint="engine.log in the run directory has the whole story"))


def report(error: BaseException) -> tuple[int, dict[str, Any]]:
    """`(exit code, error)` for result.json; the traceback is kept for everything that is no plain problem of the user's."""
    known = explain(error)
    out: dict[str, Any] = {"problems": [p.to_json() for p in known.problems]}
    if known is not error:
        out["traceback"] = "".join(traceback.format_exception(error))
    return known.exit_code, out


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
