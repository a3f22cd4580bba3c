"""What the quickstart promises: in one training on the CPU the losses fall by a third or more, and the model answers as the data does.

The property is stated in `quickstart_property.py`; it is asked for on held-out prompts, of the base and of the trained model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.quickstart_property import follows

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ROOT = Path(__file__).parents[1]
PROMPTS = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the whole quickstart."""
    runs = tmp_path_factory.mktemp("quickstart")
    command = ["train", "quickstart", "--gpu", "cpu", "--runs-dir", str(runs), "--name", "quickstart"]
    done = subprocess.run([sys.executable, "-m", "nothing_tune", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return runs / "quickstart"


def replies(run: Path, prompts: list[str], *options: str) -> list[str]:
    """The answers of a run's model, by the engine's chat job."""
    asked = "".join(
        json.dumps({"messages": [{"role": "user", "content": p}], "max_new_tokens": 60, "temperature": 0}) + "\n"
        for p in prompts
    )
    done = subprocess.run(
        [sys.executable, "-m", "nothing_tune.engine", "chat", str(run), *options],
        input=asked, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return [event["text"] for event in said if event["type"] == "done"]


def test_losses_fall_by_a_third(run: Path) -> None:
    metrics = json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["last_loss"] <= 2 / 3 * metrics["first_loss"]
    assert metrics["best_eval_loss"] <= 2 / 3 * metrics["first_eval_loss"]


def test_replies_are_like_the_data_and_were_not_before(run: Path) -> None:
    rows = (ROOT / "recipes/samples/quickstart.eval.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(row)["messages"][0]["content"] for row in rows][:PROMPTS]
    assert len(prompts) == PROMPTS
    counts = {}
    for name, options in (("base", ("--base",)), ("trained", ())):
        answers = replies(run, prompts, *options)
        assert len(answers) == PROMPTS
        counts[name] = sum(map(follows, prompts, answers))
    assert counts["base"] <= 2, counts
    assert counts["trained"] >= 14, counts


def test_the_run_says_what_it_hands_over(run: Path) -> None:
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert result["state"] == "done"
    assert (run / result["adapter"] / "adapter_model.safetensors").is_file()
    assert {"best_step", "best_epoch", "best_eval_loss"} <= set(result["metrics"])
