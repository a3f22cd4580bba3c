"""The job behind `tune eval`: measures a step of a run, and its base, on rows and tasks, and writes what was found into the run.

in:  {"run": path, "which": "handed-over"|"best"|"last"|"N", "data": [source...]|null, "tasks": [name or file...], "rows": N|null,
      "base": bool, "generate": bool, "max_new_tokens": N|null, "seen": bool, "group_by": column|"", "name": name|null,
      "judge": {...}|null, "endpoint": {"base_url", "model", "api_key_env", "concurrency"}|null, "against": "base"|path of a run}
out: {"type": "progress", "stage", "done", "total", "unit"}, {"type": "note"|"warning", "what", "hint"},
     {"type": "cost", "when": "before"|"after", ...}, at last {"type": "report", "path", "evaluation": {...}}

rows          what is measured on, prepared as for the training; what the run has seen of it
loss          -log p of every supervised token          answers   what is generated, and its measures
calls         function calls in words                   figures   figures of rows and groups, with `statistics`
judge, tasks  another model's verdicts; the lm-evaluation-harness
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nothing_tune.engine.job import Send, answer


def main() -> int:
    """Answers the request on stdin; returns the exit code."""
    return answer(_work)


def _work(request: dict[str, Any], send: Send) -> None:
    """Sets the environment that libraries read while they are imported; then the work."""
    from nothing_tune.artifacts import Run
    from nothing_tune.data.hub import reachable
    from nothing_tune.engine.export.source import refuse_gone
    from nothing_tune.engine.worker import goes_offline, with_environment
    from nothing_tune.plan.model import Plan

    plan = Plan.from_json(with_environment(Run(Path(request["run"]).absolute()).plan()))
    refuse_gone(plan)
    offline = bool(request.get("tasks")) and os.environ.get("HF_HUB_OFFLINE", "0") == "0" and not reachable()
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # its libraries, not imported yet, would try for half a minute
    if goes_offline(plan) or offline:
        send(type="note", what="the Hugging Face hub cannot be reached; what is in the local cache is used")
    if plan.training.get("use_cpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from nothing_tune.engine.evaluate.job import work

    work(request, send)
