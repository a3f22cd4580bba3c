"""The job behind `tune data inspect`: prepares rows as a run would, and tells what it saw.

in:  {"plan": {...}, "show": 3}
out: {"type": "progress", "what": "reading", "rows": n, "share": 0.4} ... {"type": "report", "report": {...}, "examples": [...]}
or   {"type": "error", "what": ..., "hint": ..., "exit_code": ..., "problems": [{"what": ..., "hint": ...}]}
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any, TextIO

from nothing_tune.engine.chat import claimed_stdout
from nothing_tune.engine.worker import ENVIRONMENT, goes_offline, with_environment
from nothing_tune.plan.model import Plan

EVERY_S = 0.2
"""Seconds between two reports of progress."""


def main(lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Answers the one line of `lines` (stdin) on `out` (stdout); returns the exit code."""
    lines = lines or sys.stdin
    out = out or claimed_stdout()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    told = 0.0

    def send(**fields: Any) -> None:
        print(json.dumps(fields, ensure_ascii=False, default=str), file=out, flush=True)

    def tell(what: str, rows: int, share: float | None) -> None:
        nonlocal told
        if time.monotonic() - told > EVERY_S:
            told = time.monotonic()
            send(type="progress", what=what, rows=rows, share=share)

    try:
        request = json.loads(lines.readline())
        report, examples = inspect(request["plan"], int(request.get("show") or 0), tell)
    except Exception as error:  # whatever it is, the other end of the pipe must be told
        from nothing_tune.engine.failures import explain

        traceback.print_exc()  # to the job's log, which is kept when the error is not one of ours
        known = explain(error)
        problems = [p.to_json() for p in known.problems]
        first = known.problems[0]
        send(type="error", what=first.what, hint=first.hint, exit_code=known.exit_code, problems=problems)
        return known.exit_code
    send(type="report", report=report, examples=examples)
    return 0


def inspect(plan: dict[str, Any], show: int, tell: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """`(report, examples)` of the rows that `plan` would train on."""
    loaded = Plan.from_json(with_environment(plan))
    goes_offline(loaded)
    from nothing_tune.engine import build, prepare

    tokenizer = build.tokenizer(loaded)
    evaluate = str(loaded.training.get("eval_strategy") or "no") != "no" and bool(loaded.data.get("eval"))
    prepared = prepare.load(loaded, tokenizer, evaluate, tell=tell)
    report = prepared.report
    if not report["packing"] and loaded.training.get("max_length"):
        report["train"]["padding"]["packed"] = prepare.packed_waste(prepared)
    return report, prepare.examples(prepared, tokenizer, show)
