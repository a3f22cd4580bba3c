"""A run whose model and data are files asks the network for nothing: no hub, no telemetry, no tracker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.support import MakeRun

ROOT = Path(__file__).parents[2]
WATCHED = """
import json, sys
from pathlib import Path
from nothing_tune.engine import worker

asked = []

def watch(event, args):
    if event == "socket.getaddrinfo":
        asked.append([event, str(args[0])])
    elif event == "socket.connect" and isinstance(args[1], tuple):
        asked.append([event, str(args[1])])

sys.addaudithook(watch)
code = worker.main(Path(sys.argv[1]))
Path(sys.argv[2]).write_text(json.dumps({"code": code, "asked": asked}))
"""


@pytest.mark.parametrize("tracking", [{"tracker": "none"}, {"tracker": "wandb", "mode": "offline"}])
def test_a_local_run_asks_the_network_for_nothing(tracking: dict[str, Any], make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tracking=tracking)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_HUB", "HF_DATASETS", "CI"))}
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(run.path), str(report)],
        env={**env, "HF_HUB_OFFLINE": "0", "WANDB_ERROR_REPORTING": "false"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.is_file(), done.stderr
    assert json.loads(report.read_text()) == {"code": 0, "asked": []}
