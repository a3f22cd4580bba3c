"""A job of the engine: one request as a JSON line on stdin, then events as JSON lines on stdout until it ends.

Whatever goes wrong is the last event, `{"type": "error", "what", "hint", "exit_code", "problems": [...]}`; what libraries say on
stdout goes to stderr, which is the job's log.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from nothing_tune.engine.worker import ENVIRONMENT


class Send(Protocol):
    """Writes one event; `type` names its kind."""

    def __call__(self, **fields: Any) -> None:
        """`send(type="progress", what="reading", rows=3)`."""


def answer(work: Callable[[dict[str, Any], Send], None], lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Calls `work(request, send)` with the first line of `lines` (stdin), its events to `out` (stdout); returns the exit code."""
    lines, out = lines or sys.stdin, out or claimed_stdout()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    def send(**fields: Any) -> None:
        print(json.dumps(fields, ensure_ascii=False, default=str), file=out, flush=True)

    try:
        work(json.loads(lines.readline()), send)
    except Exception as error:  # whatever it is, the other end of the pipe must be told
        from nothing_tune.engine.failures import explain

        traceback.print_exc()  # to the job's log, which is kept when the error is not one of ours
        known = explain(error)
        first = known.problems[0]
        problems = [p.to_json() for p in known.problems]
        send(type="error", what=first.what, hint=first.hint, exit_code=known.exit_code, problems=problems)
        return known.exit_code
    return 0


def claimed_stdout() -> TextIO:
    """Standard output for the protocol alone: whatever libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out
