"""The job behind `tune data inspect`: prepares rows as a run would, and tells what it saw.

in:  {"plan": {...}, "show": 3}
out: {"type": "progress", "what": "reading", "rows": n, "share": 0.4} ... {"type": "report", "report": {...}, "examples": [...]}
or   {"type": "error", "what": ..., "hint": ..., "exit_code": ..., "problems": [{"what": ..., "hint": ...}]}
"""

from __future__ import annotations

import time
from typing import Any, TextIO

from nothing_tune.engine.job import Send, answer
from nothing_tune.engine.worker import goes_offline, with_environment
from nothing_tune.plan.model import Plan

EVERY_S = 0.2
"""Seconds between two reports of progress."""


def main(lines: TextIO | None = None, out: TextIO | None = None) -> int:
    """Answers the one line of `lines` (stdin) on `out` (stdout); returns the exit code."""
    return answer(_answer, lines, out)


def _answer(request: dict[str, Any], send: Send) -> None:
    told = 0.0

    def tell(what: str, rows: int, share: float | None) -> None:
        nonlocal told
        if time.monotonic() - told > EVERY_S:
            told = time.monotonic()
            send(type="progress", what=what, rows=rows, share=share)

    report, examples = inspect(request["plan"], int(request.get("show") or 0), tell)
    send(type="report", report=report, examples=examples)


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
