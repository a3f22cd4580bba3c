"""The whole way in one: a recipe is trained, killed, resumed, evaluated, merged, made a GGUF, and answers in llama.cpp."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.quickstart_property import follows

pytestmark = [pytest.mark.engine, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PROMPTS = 5
KILLED_AFTER = 45
"""Step after which the training is killed; checkpoints are at 20 and 40."""


def tune(*words: str, code: int = 0, **options: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nothing_tune", *words], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_recipe_to_a_reply_from_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    runs = ["--runs-dir", str(tmp_path)]
    # a recipe, trained and killed in the middle
    tune("train", "quickstart", "training.save_steps=20", "training.eval_steps=20", "--name", "way", "--detach", *runs)
    status = tmp_path / "way" / "status.json"
    deadline = time.monotonic() + 240
    while (now := json.loads(status.read_text("utf-8"))).get("step", 0) <= KILLED_AFTER:
        assert time.monotonic() < deadline, now
        assert now["state"] in ("starting", "running"), now
        time.sleep(0.05)
    os.kill(now["pid"], signal.SIGKILL)
    os.kill(now["worker"], signal.SIGKILL)
    # resumed to its end
    ended = json.loads(tune("resume", "way", "--json", *runs))
    assert ended["state"] == "done"
    events = [json.loads(line) for line in (tmp_path / "way" / "events.jsonl").read_text("utf-8").splitlines()]
    assert next(e["step"] for e in events if e["type"] == "resume") >= 40
    # evaluated beside its base
    found = json.loads(tune("eval", "way", "--json", *runs))
    assert found["difference"]["loss"]["high"] < 0, found["difference"]["loss"]
    # merged and made a GGUF, each proved
    made = json.loads(tune("export", "way", "--merge", "--gguf", "q8_0,q4_k_m", "--ollama", "--vllm", "--json", *runs))
    assert made["proved"] is True, made
    proofs = {one["output"]: one["proof"] for one in made["outputs"]}
    assert set(proofs) == {"adapter", "merged", "q8_0", "q4_k_m"}
    assert proofs["merged"]["kl"] < 1e-4 < 1e-2 < proofs["merged"]["effect"]
    assert proofs["q8_0"]["kl"] < 1e-3
    # it answers in llama.cpp as the data does
    rows = (ROOT / "recipes/samples/quickstart.eval.jsonl").read_text("utf-8").splitlines()[:PROMPTS]
    prompts = [json.loads(row)["messages"][0]["content"] for row in rows]
    file = next(one["path"] for one in made["outputs"] if one["output"] == "q4_k_m")
    replies = tune("chat", file, "--temperature", "0", input="\n".join(prompts) + "\n").splitlines()
    assert len(replies) == PROMPTS
    assert sum(map(follows, prompts, replies)) >= PROMPTS - 2, replies
    # and what lies there is proved again, by itself
    again = json.loads(tune("export", "--verify", "way", "--json", *runs))
    assert again["proved"] is True, again
