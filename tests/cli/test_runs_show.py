"""`tune runs show`: the whole page, attempts and faults of a run with a history, and of one that an old version made."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import checkpoint, write_json
from nothing_tune.run import pins

ID = "20261120-214500-demo-l4-9f3a"
METRICS = {
    "first_loss": 2.5,
    "last_loss": 1.5,
    "eval_loss": 0.9,
    "best_eval_loss": 0.9,
    "best_step": 20,
    "best_epoch": 2.0,
}
BEGAN = 1_795_209_900.0


def save(demo: Any, step: int) -> Path:
    folder: Path = demo.run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 2048)
    checkpoint.commit(folder, step=step, attempt=1, run=ID)
    return folder


def test_page(tune: Callable[..., Any], demo: Any) -> None:
    demo.event("start", train_rows=100)
    demo.log(1, 2.5)
    demo.event("warning", what="3 rows were cut", hint="raise training.max_length")
    demo.event("warning", what="the run goes on to step 20 instead of 10", hint="along the longer curve")
    demo.log(20, 1.5)
    demo.event("eval", step=20, epoch=2.0, metrics={"eval_loss": 0.9})
    demo.run.adapter.mkdir()
    (demo.run.adapter / "adapter_model.safetensors").write_bytes(b"x" * 2048)
    save(demo, 10), save(demo, 20)
    (demo.run.checkpoints / "checkpoint-30").mkdir()
    pins.pin(demo.run, 10)
    demo.event("checkpoint", step=20, best=True)
    demo.result(step=20, metrics=METRICS, adapter="adapter", duration_s=61.4)
    said = tune("runs", "show", "latest").out
    top, rest = said.split("\ncheckpoints\n")
    assert top == (
        f"demo  {ID}\n"
        "  model      org/model\n"
        "  method     LoRA r 16, alpha 32 on 4-bit nf4\n"
        "  data       rows.jsonl, 10 % of it held out\n"
        "  gpu        NVIDIA L4, 24 GB\n"
        "  precision  bf16: l4 computes in bfloat16\n"
        "  batch      2 x 8 = 16 rows a step\n"
        "  length     3 epochs, rows of up to 1024 tokens\n"
        "  layers     base/qlora · demo.yaml\n"
        "\n"
        "warnings\n"
        "  3 rows were cut; raise training.max_length\n"
        "\n"
        "notes\n"
        "  the run goes on to step 20 instead of 10; along the longer curve\n"
    )
    table, rest = rest.split("\n\n", 1)
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["step", "age", "size"]
    assert [(line[0], line[-1]) for line in lines[1:]] == [("10", "pinned"), ("20", "best"), ("30", "complete")]
    assert f"files  runs/{ID}\n" in rest
    assert "  adapter/        2.0 KiB\n" in rest
    assert rest.endswith(
        "\ndone  20 steps in 0:01:01\n"
        "  loss       2.500 → 1.500  (-40 %)\n"
        "  eval loss  0.900\n"
        "  best       0.900 at step 20, epoch 2.00\n"
        f"  result     runs/{ID}/adapter (the best checkpoint)\n"
        f"  next       tune chat {ID}\n"
    )
    data = tune("runs", "show", "latest", "--json").json()
    assert [(c["step"], c["best"], c["pinned"], c["complete"]) for c in data["checkpoints"]] == [
        (10, False, True, True),
        (20, True, False, True),
        (30, False, False, False),
    ]
    assert data["files"]["adapter/"] == 2048
    assert data["result"]["metrics"]["best_step"] == 20
    assert [w["what"] for w in data["warnings"]] == ["3 rows were cut"]
    assert len(data["notes"]) == 1
    assert data["faults"] == []


@pytest.fixture
def eventful(demo: Any) -> Any:
    """Four attempts: killed, ended by hand after out of memory, hung, and one that goes on."""

    def attempt(number: int, **fields: Any) -> None:
        write_json(demo.run.path / "attempts" / f"{number:04}.json", {"attempt": number, "acts": [], **fields})

    def event(attempt: int, kind: str, **fields: Any) -> None:
        demo.event(kind, **{**fields, "attempt": attempt})

    (demo.run.path / "attempts").mkdir()
    attempt(
        1, host="left", created=BEGAN, heartbeat=BEGAN + 60, ended=None, state="running", exit_code=None, error=None,
        from_step=0, step=40,
    )  # fmt: skip
    attempt(
        2, host="right", created=BEGAN + 100, heartbeat=BEGAN + 200, ended=BEGAN + 200, state="stopped", exit_code=130,
        error="stopped by the user", from_step=30, step=60, acts=["micro batch 8 -> 4", "accumulation 2 -> 4"],
    )  # fmt: skip
    attempt(
        3, host="right", created=BEGAN + 300, heartbeat=BEGAN + 3900, ended=BEGAN + 3900, state="failed", exit_code=5,
        error="no sign of life", from_step=60, step=80,
    )  # fmt: skip
    now = time.time()
    attempt(
        4, host="right", created=now - 5, heartbeat=now, ended=None, state="running", exit_code=None, error=None,
        from_step=80, step=90,
    )  # fmt: skip
    event(2, "torn", path="checkpoints/checkpoint-40", to="checkpoints/torn-40-a2", why="it was never completed")
    event(2, "warning", what="checkpoint-40 is set aside as torn-40-a2: it was never completed", hint="x")
    event(2, "warning", what="attempt 1 on left was taken over: its heartbeat did not move", hint="")
    event(2, "resume", step=30)
    event(2, "adjust", step=31, what="micro batch 8 -> 4", why="out of memory in training")
    event(2, "warning", what="the tracker is switched off for this run: CommError: no route", hint="training goes on")
    event(2, "warning", what="the disk is full: checkpoint-50 is not written", hint="older ones are removed")
    event(3, "spike", step=70, loss=9.5, median=1.1, rows=[{"row": 3}])
    event(3, "non_finite", step=71, what="the loss", rows=[])
    event(3, "warning", what="3 rows were cut", hint="")
    event(3, "hang", seconds=1800)
    demo.status("running", step=90, total_steps=100, attempt=4)
    return demo


def test_attempts_and_faults(tune: Callable[..., Any], eventful: Any) -> None:
    said = tune("runs", "show", ID).out
    attempts = said.split("\nattempts\n")[1].split("\n\n")[0].splitlines()
    assert attempts == [
        "  nr  host   started (UTC)        took  steps     ended",
        "   1  left   2026-11-20 21:25  0:01:00  0 to 40   ended without a word",
        "   2  right  2026-11-20 21:26  0:01:40  30 to 60  stopped (130): stopped by the user",
        "                                                  micro batch 8 -> 4",
        "                                                  accumulation 2 -> 4",
        "   3  right  2026-11-20 21:30  1:00:00  60 to 80  failed (5): no sign of life",
        attempts[-1],
    ]
    assert attempts[-1].split()[:2] == ["4", "right"]
    assert attempts[-1].endswith("-  80 to 90  running")
    assert said.split("\nfaults\n")[1].split("\n\n")[0].splitlines() == [
        "  attempt 2: checkpoint-40 is set aside as torn-40-a2: it was never completed",
        "  attempt 2: attempt 1 on left was taken over: its heartbeat did not move",
        "  attempt 2, step 31: out of memory in training: micro batch 8 -> 4",
        "  attempt 2, step 31: the tracker is switched off for this run: CommError: no route; training goes on",
        "  attempt 2, step 31: the disk is full: checkpoint-50 is not written; older ones are removed",
        "  attempt 3, step 70: the loss jumped to 9.500 at step 70, usual is 1.100: row 3",
        "  attempt 3, step 71: the loss was not finite at step 71, which is left out",
        "  attempt 3, step 71: no sign of life for 30 min: the training was ended, to go on at the newest checkpoint",
    ]
    assert "\nwarnings\n  attempt 3: 3 rows were cut\n" in said
    data = tune("runs", "show", ID, "--json").json()
    assert [a["state"] for a in data["attempts"]] == ["abandoned", "stopped", "failed", "running"]
    assert data["attempts"][1]["acts"] == ["micro batch 8 -> 4", "accumulation 2 -> 4"]
    assert [f["kind"] for f in data["faults"]] == [
        "torn", "fault", "adjust", "fault", "fault", "spike", "non_finite", "hang",
    ]  # fmt: skip
    assert data["faults"][2]["step"] == 31


def test_attempts_of_an_old_version_are_told_by_events(tune: Callable[..., Any], demo: Any) -> None:
    demo.log(1, 2.5)
    demo.log(7, 2.0)
    demo.event(
        "warning", what="checkpoint-7 is passed over: it was never completed", hint="training goes on at an older one"
    )
    for kind, fields in (
        ("resume", {"step": 4}),
        ("log", {"step": 5, "metrics": {"loss": 2.0}}),
        ("state", {"state": "done"}),
    ):
        demo.event(kind, **fields, attempt=2)
    demo.result(step=20)
    demo.status("done", attempt=2)
    data = tune("runs", "show", ID, "--json").json()
    assert [(a["attempt"], a["from_step"], a["step"], a["state"]) for a in data["attempts"]] == [
        (1, 0, 7, "abandoned"),
        (2, 4, 5, "done"),
    ]
    assert [f["what"] for f in data["faults"]] == ["checkpoint-7 is passed over: it was never completed"]
    said = tune("runs", "show", ID).out
    assert "ended without a word\n" in said
    assert "4 to 5  done\n" in said


def test_a_damaged_attempt_is_shown(tune: Callable[..., Any], eventful: Any) -> None:
    (eventful.run.path / "attempts" / "0002.json").write_text("{torn")
    data = tune("runs", "show", ID, "--json").json()
    assert [a["state"] for a in data["attempts"]] == ["abandoned", "damaged", "failed", "running"]


def test_where_an_attempt_really_began_and_how_it_ended(tune: Callable[..., Any], demo: Any) -> None:
    """Attempt 2 fell back to an older checkpoint, and saved and ended although its supervisor was killed; so did 3."""
    common = {"host": "here", "created": BEGAN, "heartbeat": BEGAN + 60, "ended": None, "state": "running", "acts": []}
    (demo.run.path / "attempts").mkdir()
    for number in (1, 2, 3, 4):
        entry = {"attempt": number, **common, "from_step": 40 if number > 1 else 0, "step": 40}
        write_json(demo.run.path / "attempts" / f"{number:04}.json", entry)
    demo.event("log", step=40)
    demo.event("resume", step=30, attempt=2)
    demo.event("end", step=45, attempt=2, state="stopped", exit_code=130, time=BEGAN + 100)
    demo.event("start", attempt=3)
    demo.event("log", step=50, attempt=3)
    demo.event("resume", step=45, attempt=4)
    demo.event("log", step=60, attempt=4)
    error = {"problems": [{"what": "ended from outside (SIGTERM)"}]}
    demo.result("preempted", 75, step=60, attempt=4, ended=BEGAN + 120, error=error)
    demo.status("preempted", step=60, attempt=4)
    said = tune("runs", "show", ID).out
    assert said.split("\nattempts\n")[1].split("\n\n")[0].splitlines() == [
        "  nr  host  started (UTC)        took  steps     ended",
        "   1  here  2026-11-20 21:25  0:01:00  0 to 40   ended without a word",
        "   2  here  2026-11-20 21:25  0:01:40  30 to 45  stopped (130)",
        "   3  here  2026-11-20 21:25  0:01:00  0 to 50   ended without a word",
        "   4  here  2026-11-20 21:25  0:02:00  45 to 60  preempted (75): ended from outside (SIGTERM)",
    ]


@pytest.mark.parametrize(
    ("mode", "how"), [("continue", "goes on from there"), ("restart", "a new count with its weights")]
)
def test_parent(tune: Callable[..., Any], demo: Any, mode: str, how: str) -> None:
    changed = {"training.learning_rate": [0.0002, 1e-05], "data.max_samples": [None, 5]}
    write_json(demo.run.path / "lock.json", {"parent": {"run": "other", "step": 20, "mode": mode, "changed": changed}})
    assert (
        f"  parent     other at step 20, {how}: training.learning_rate 0.0002 -> 1e-05, data.max_samples null -> 5\n"
        in tune("runs", "show", ID).out
    )
    assert tune("runs", "show", ID, "--json").json()["parent"]["step"] == 20
