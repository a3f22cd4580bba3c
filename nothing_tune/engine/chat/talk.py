"""The job itself: loads what answers, then one request a line on stdin, events on stdout.

    python -m nothing_tune.engine chat PATH [--base] [--weights FOLDER]

    in:  {"messages": [{"role": "user", "content": "..."}], "max_new_tokens": 256, "temperature": 0.7, "top_p": 0.95, "top_k": 50,
          "repetition_penalty": 1.1, "seed": 1, "stop": ["..."], "tools": [...], "base": true}
         or {"count": {"messages": [...], "tools": [...]}}
    out: {"type": "ready", "base", "device", "dtype", "context", "kind", "can_leave_off"}, then for each request
         {"type": "token", "text": ..., "tokens": n} ...
         {"type": "done", "text", "tokens": n, "finish": "stop" | "length" | "context" | "cancelled", "prompt_tokens", "seconds",
          "calls": [{"name", "arguments"}], "words"}      the last two where the answer calls tools
         or {"type": "counted", "tokens": n, "context": limit}
    or   {"type": "error", "what": ..., "hint": ..., "exit_code": ...}

Temperature 0 is greedy. SIGINT ends the answer that is being given, and nothing else. The job ends at the end of its input, or
with an error while it loads.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from nothing_tune.artifacts import Run
from nothing_tune.engine.chat.models import Transformers, load, load_folder
from nothing_tune.engine.chat.replies import Speaker, answer, prompt
from nothing_tune.engine.job import claimed_stdout
from nothing_tune.engine.worker import ENVIRONMENT
from nothing_tune.errors import Problem, TuneError


def main(
    path: Path,
    base: bool = False,
    lines: TextIO | None = None,
    out: TextIO | None = None,
    weights: Path | None = None,
) -> int:
    """Answers the lines of `lines` (stdin) on `out` (stdout) until they end. Returns the exit code.

    Args:
        path: A run directory, a model's or an adapter's folder, or a GGUF file.
        base: Leaves the adapter off.
        weights: Folder of a run's checkpoint instead of what it handed over.
    """
    lines = lines or sys.stdin
    out = out or claimed_stdout()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    def send(**fields: Any) -> None:
        print(json.dumps(fields, ensure_ascii=False), file=out, flush=True)

    cancel = threading.Event()
    with _interruptible(cancel):
        try:
            speaker = _speaker(path.absolute(), base, weights)
        except Exception as error:  # whatever it is, the other end of the pipe must be told
            return _fail(send, error)
        send(
            type="ready", base=base, device=speaker.device, dtype=speaker.dtype, context=speaker.context, kind=speaker.kind,
            can_leave_off=speaker.can_leave_off,
        )  # fmt: skip
        for line in lines:
            if not line.strip():
                continue
            cancel.clear()
            try:
                request = json.loads(line)
                if isinstance(request, dict) and "count" in request:
                    send(type="counted", tokens=len(prompt(speaker, request["count"])), context=speaker.context)
                    continue
                for event in answer(speaker, request, cancel):
                    send(**event)
            except Exception as error:  # one bad message does not end the conversation
                _fail(send, error)
    return 0


def _speaker(path: Path, base: bool, weights: Path | None) -> Speaker:
    if path.is_file():
        from nothing_tune.engine.chat.gguf import LlamaCpp

        return LlamaCpp(path)
    if (path / "plan.json").is_file():
        return Transformers(*load(Run(path), base, weights))
    return Transformers(*load_folder(path, base))


def _fail(send: Any, error: Exception) -> int:
    from nothing_tune.engine.failures import explain

    if isinstance(error, ValueError | KeyError) and not isinstance(error, UnicodeError):
        send(type="error", what=f"{type(error).__name__}: {error}", hint="", exit_code=2)
        return 2
    known: TuneError = explain(error)
    first: Problem = known.problems[0]
    hint = first.hint
    if known.exit_code == 71:
        hint = "a shorter conversation (/reset), a lower --max-new-tokens, or a quantized model"
    send(type="error", what=first.what, hint=hint, exit_code=known.exit_code)
    return known.exit_code


@contextlib.contextmanager
def _interruptible(cancel: threading.Event) -> Iterator[None]:
    """While it lasts, SIGINT sets `cancel` and does nothing else."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: cancel.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
