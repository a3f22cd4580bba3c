"""The view of a run: what it says while events come in, how it ends, what Ctrl-C does."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from nothing_tune.artifacts import write_json
from nothing_tune.cli import live
from nothing_tune.cli.console import Ink
from nothing_tune.cli.view import View, bar, batch, figures, length, method, plain_line, precision

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

ID = "20261120-214500-demo-l4-9f3a"
HEADER = f"""\
demo  {ID}
  model      org/model
  method     LoRA r 16, alpha 32 on 4-bit nf4
  data       rows.jsonl, 10 % of it held out
  gpu        NVIDIA L4, 24 GB
  precision  bf16: l4 computes in bfloat16
  batch      2 x 8 = 16 rows a step
  length     3 epochs, rows of up to 1024 tokens

"""


def play(demo: Any, end: Callable[[], None], pause_s: float = 0.12) -> threading.Thread:
    """Writes a short run from another thread, as an engine would."""

    def write() -> None:
        time.sleep(pause_s)
        demo.event("phase", phase="imports")
        time.sleep(pause_s)
        demo.event("phase", phase="model")
        time.sleep(pause_s)
        demo.event("start", train_rows=100)
        demo.status("running", step=0, total_steps=20)
        demo.event("state", state="running")
        demo.log(1, 2.5)
        demo.event("warning", what="3 rows were cut", hint="raise training.max_length")
        demo.event("warning", what="3 rows were cut", hint="raise training.max_length")
        time.sleep(pause_s)
        demo.log(10, 2.0)
        demo.event("eval", step=10, epoch=1.0, metrics={"eval_loss": 1.1})
        time.sleep(pause_s)
        demo.log(20, 1.5, eta_s=0)
        end()

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_plain(tune: Callable[..., Any], demo: Any) -> None:
    metrics = {
        "first_loss": 2.5,
        "last_loss": 1.5,
        "first_eval_loss": 1.1,
        "eval_loss": 0.9,
        "best_eval_loss": 0.9,
        "best_step": 20,
    }
    thread = play(demo, lambda: demo.result(step=20, metrics=metrics, adapter="adapter", duration_s=61.4))
    result = tune("watch", "latest")
    thread.join()
    assert result.code == 0
    assert result.out == HEADER + (
        "starting the engine\n"
        "importing the libraries\n"
        "loading the model\n"
        "step 1/20  loss 2.500  lr 1.9e-04  812 tok/s  1.2 GiB  eta 0:00:41\n"
        "warning: 3 rows were cut; raise training.max_length\n"
        "step 10/20  loss 2.000  lr 1.9e-04  812 tok/s  1.2 GiB  eta 0:00:41\n"
        "step 10/20  eval loss 1.100\n"
        "step 20/20  loss 1.500  lr 1.9e-04  812 tok/s  1.2 GiB  eta 0:00:00\n"
        "\n"
        "done  20 steps in 0:01:01\n"
        "  loss       2.500 → 1.500  (-40 %)\n"
        "  eval loss  1.100 → 0.900  (-18 %)\n"
        "  best       0.900 at step 20\n"
        f"  result     runs/{ID}/adapter (the best checkpoint)\n"
        f"  next       tune chat {ID}\n"
        f"             tune runs show {ID}\n"
    )
    assert result.err == ""


def test_finished(tune: Callable[..., Any], demo: Any) -> None:
    demo.log(20, 1.5)
    demo.result("stopped", 130, step=20)
    result = tune("watch", ID)
    assert result.code == 130
    assert result.out == HEADER + (
        "\n"
        f"stopped at step 20; continue with: tune resume {ID}\n"
        "  loss  1.500\n"
        f"  run   runs/{ID}\n"
        f"  next  tune runs show {ID}\n"
    )


def test_failed(tune: Callable[..., Any], demo: Any) -> None:
    (demo.run.path / "engine.log").write_text("one\nRuntimeError: \x1b[31mshapes\n")
    problem = {
        "what": "a bug: RuntimeError: shapes",
        "key": "",
        "place": None,
        "layer": "",
        "hint": "report it",
        "severity": "error",
    }
    demo.result("failed", 1, step=3, error={"problems": [problem], "traceback": "..."})
    result = tune("watch", ID)
    assert result.code == 1
    assert result.err == (
        "error: a bug: RuntimeError: shapes\n"
        "  hint: report it\n"
        f"log: runs/{ID}/engine.log\n"
        "  one\n"
        "  RuntimeError: [31mshapes\n"
    )
    end = f"\nfailed  3 steps\n  run   runs/{ID}\n  next  "
    assert result.out.endswith(f"{end}tune runs show {ID}\n")
    (demo.run.checkpoints / "checkpoint-2").mkdir(parents=True)
    write_json(demo.run.checkpoints / "checkpoint-2" / "COMMIT.json", {})
    assert tune("watch", ID).out.endswith(f"{end}tune resume {ID}\n        tune runs show {ID}\n")


def test_known_failure_shows_no_log(tune: Callable[..., Any], demo: Any) -> None:
    (demo.run.path / "engine.log").write_text("noise\n")
    place = {"file": "a.yaml", "line": 3, "column": 5}
    demo.result(
        "failed", 71, step=3, error={"problems": [{"what": "out of memory", "place": place, "hint": "smaller batch"}]}
    )
    result = tune("watch", ID)
    assert (result.code, result.err) == (71, "error: out of memory\n  where: a.yaml:3:5\n  hint: smaller batch\n")


def test_dead_engine(demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SILENT_S", 0.3)
    (demo.run.path / "engine.log").write_text("Killed\n")
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    assert live.follow(demo.run, process=process, alive=lambda: False) == 5
    said = capsys.readouterr().err
    assert said == (
        f"error: the engine of run {ID} ended without a word, at step 0\n"
        f"  hint: tune resume {ID} starts it again: it has no checkpoint\n"
        f"log: runs/{ID}/engine.log\n"
        "  Killed\n"
    )


def test_a_lost_run_is_told_at_once(tune: Callable[..., Any], demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SILENT_S", 1e9)
    demo.status("running", step=4, total_steps=20, heartbeat=time.time() - 3600)
    said = tune("watch", ID)
    assert said.code == 5
    assert said.out == HEADER + "now at step 4/20, training\n"
    assert said.err.startswith(f"error: the engine of run {ID} ended without a word, at step 4\n")


def test_first_interrupt_stops_second_leaves(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[float] = []
    demo.status("running", step=4, total_steps=20)

    def press() -> None:
        time.sleep(0.4)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.8)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    code = live.follow(demo.run, interrupt=lambda: asked.append(0), alive=lambda: True)
    thread.join()
    assert code == 130
    assert len(asked) == 1
    assert capsys.readouterr().out == (
        "now at step 4/20, training\n"
        "stopping at the end of this step, saving…  Ctrl-C again leaves at once\n"
        f"left; the run may still be stopping; look again with: tune watch {ID}\n"
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def press_twice() -> None:
    """Two presses of Ctrl-C within one poll, once the view looks."""

    def press() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    threading.Timer(0.3, press).start()


@pytest.mark.parametrize("answers", [[True], [None], [False, False, True]])
def test_two_quick_interrupts_tell_the_engine_before_leaving(
    demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answers: list[bool | None]
) -> None:
    monkeypatch.setattr(live, "PLAIN_POLL_S", 0.8)
    demo.status("running", step=4, total_steps=20)
    press_twice()
    assert live.follow(demo.run, interrupt=lambda: answers.pop(0), alive=lambda: True) == 130
    assert answers == []
    assert capsys.readouterr().out == (
        "now at step 4/20, training\n"
        "stopping at the end of this step, saving…  Ctrl-C again leaves at once\n"
        f"left; the run may still be stopping; look again with: tune watch {ID}\n"
    )


def test_an_engine_that_cannot_be_told_does_not_keep_the_view(
    demo: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PLAIN_POLL_S", 0.8)
    monkeypatch.setattr(live, "TELL_S", 0.5)
    asked: list[None] = []

    def interrupt() -> bool:
        asked.append(None)
        return False

    demo.status("running", step=4, total_steps=20)
    press_twice()
    assert live.follow(demo.run, interrupt=interrupt, alive=lambda: True) == 130
    assert len(asked) > 1
    assert capsys.readouterr().out.endswith(
        f"\nleft; the run could not be told to stop; look again with: tune watch {ID}\n"
    )


def test_interrupt_is_repeated_until_the_engine_hears_it(demo: Any) -> None:
    answers = [False, False, True]
    demo.status("running", step=4, total_steps=20)

    def interrupt() -> bool:
        heard = answers.pop(0)
        if heard:
            demo.result("stopped", 130, step=5)
        return heard

    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    assert live.follow(demo.run, interrupt=interrupt, alive=lambda: True, quiet=True) == 130
    assert answers == []


def test_watch_says_at_once_where_the_run_stands(tune: Callable[..., Any], demo: Any) -> None:
    demo.event("state", state="running")
    demo.event("warning", what="3 rows were cut", hint="raise training.max_length")
    demo.log(4, 2.0)
    demo.event("eval", step=4, epoch=1.0, metrics={"eval_loss": 1.1})
    demo.event("phase", phase="saving")
    demo.status("running", step=6, total_steps=20)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    assert tune("watch", ID).out == HEADER + (
        f"now at step 6/20, saving, loss 2.000, eval loss 1.100\nthe run goes on; look again with: tune watch {ID}\n"
    )


EVENTS: list[tuple[dict[str, Any], str]] = [
    (
        {"type": "torn", "path": "checkpoint-40", "to": "torn-40-a2", "why": "optimizer.pt is missing"},
        "checkpoint-40 is set aside as torn-40-a2: optimizer.pt is missing",
    ),
    (
        {
            "type": "adjust",
            "what": "micro batch 8 -> 4, accumulation 2 -> 4",
            "why": "out of memory in training: CUDA: 2 GiB",
        },
        "out of memory in training: micro batch 8 -> 4, accumulation 2 -> 4",
    ),
    (
        {"type": "spike", "step": 12, "loss": 9.5, "median": 1.1, "rows": [{"row": 3, "text": "a"}, {"row": 17}]},
        "the loss jumped to 9.500 at step 12, usual is 1.100: rows 3, 17",
    ),
    (
        {"type": "non_finite", "step": 12, "what": "the gradient", "rows": [3]},
        "the gradient was not finite at step 12, which is left out: row 3",
    ),
    (
        {"type": "hang", "seconds": 1800},
        "no sign of life for 30 min: the training was ended, to go on at the newest checkpoint",
    ),
    ({"type": "rehearsal", "tokens": 4096, "memory_gib": 1.23}, "the longest batch fits: 4096 tokens, 1.2 GiB"),
    ({"type": "attempt", "number": 2, "host": "other"}, "attempt 2 begins on other"),
    (
        {"type": "warning", "what": "the run goes on to step 8 instead of 4", "hint": "the curve is longer"},
        "the run goes on to step 8 instead of 4; the curve is longer",
    ),
    (
        {"type": "warning", "what": "attempt 1 on a was taken over", "hint": ""},
        "warning: attempt 1 on a was taken over",
    ),
]


@pytest.mark.parametrize(("event", "line"), EVENTS, ids=[str(e["type"]) for e, _ in EVENTS])
def test_what_happens_is_one_line(
    demo: Any, capsys: pytest.CaptureFixture[str], event: dict[str, Any], line: str
) -> None:
    view = View()
    view.apply({"attempt": 2, **event})
    live._say(live._Screen(), view, event)
    assert capsys.readouterr().out == f"{line}\n"


def test_what_is_set_aside_is_said_once(demo: Any) -> None:
    view = View()
    view.apply({"type": "torn", "path": "checkpoint-40", "to": "torn-40-a2", "why": "x"})
    view.apply({"type": "warning", "what": "checkpoint-40 is set aside as torn-40-a2: x", "hint": "on we go"})
    view.apply({"type": "attempt", "number": 1, "host": "here"})
    assert [kind for kind, _, _ in view.take_notes()] == ["fault"]


def test_watch_only_detaches(tune: Callable[..., Any], demo: Any) -> None:
    demo.status("running", step=4, total_steps=20)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    result = tune("watch", ID)
    assert result.code == 0
    assert result.out.endswith(f"the run goes on; look again with: tune watch {ID}\n")


def test_terminal(demo: Any) -> None:
    """On a terminal: the header stays, a region is drawn anew, the cursor comes back, the panel closes."""
    thread = play(
        demo, lambda: demo.result(step=20, metrics={"last_loss": 1.5}, adapter="adapter", duration_s=61.4), 0.4
    )
    leader, follower = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {
        "TERM": "xterm-256color",
        "COLUMNS": "90",
        "LINES": "30",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "nothing_tune", "watch", "latest"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    said = b""
    while select.select([leader], [], [], 20)[0]:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        said += piece
    os.close(leader)
    thread.join()
    text = said.decode()
    assert process.wait(10) == 0
    assert "\x1b[1mdemo\x1b[0m" in text
    assert "━" in text
    assert "10/20" in text
    assert "╭" in text
    assert "╰" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0
    assert "tune chat" in text[text.rfind("╭") :]


def test_bar() -> None:
    view = View(step=30, total=120, eta_s=41)
    assert bar(view, 80, Ink(False)) == f"  {'━' * 12}{'─' * 36}  30/120  25 %  0:00:41 left"
    assert bar(View(step=5), 40, Ink(False)) == f"  {'─' * 26}  5/?  0 %"
    assert bar(View(step=130, total=120), 80, Ink(False)).endswith("  130/120  100 %")


def test_figures() -> None:
    view = View()
    assert figures(view, Ink(False)) == []
    assert plain_line(view) == "step 0/?  loss -"
    view.apply({"type": "log", "step": 1, "metrics": {"loss": 2.0}})
    view.apply({"type": "log", "step": 2, "metrics": {"loss": float("nan")}})
    view.apply({"type": "unknown", "step": "x", "epoch": None})
    assert figures(view, Ink(False)) == [("loss", "2.000 → -")]


FACTS: list[tuple[Callable[[dict[str, Any]], str], dict[str, Any], str]] = [
    (method, {"peft": None, "quantization": None}, "full fine-tuning"),
    (
        method,
        {"peft": {"peft_type": "LORA", "r": 8, "use_dora": True}, "quantization": {"load_in_8bit": True}},
        "DoRA r 8 on 8-bit weights",
    ),
    (
        method,
        {"peft": {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "init_lora_weights": "pissa_niter_4"}},
        "PiSSA r 8, alpha 16",
    ),
    (method, {"peft": {"peft_type": "LORA", "r": 8, "use_rslora": True}}, "rsLoRA r 8"),
    (
        method,
        {"peft": {"peft_type": "VERA", "r": 256}, "quantization": {"load_in_4bit": True}},
        "VeRA r 256 on 4-bit fp4",
    ),
    (method, {"peft": {"peft_type": "IA3"}}, "IA3"),
    (
        precision,
        {"training": {"fp16": True}, "why": {"training.fp16": "derived: t4 has no bfloat16"}},
        "fp16: t4 has no bfloat16",
    ),
    (
        precision,
        {"training": {"bf16": True}, "why": {"training.bf16": "mine (mine.yaml:3:9)"}},
        "bf16: set by mine (mine.yaml:3:9)",
    ),
    (precision, {"training": {}}, "fp32"),
    (
        batch,
        {"training": {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3}, "world_size": 2},
        "3 x 3 x 2 = 18 rows a step",
    ),
    (
        length,
        {"max_steps": 20, "num_train_epochs": 3, "packing": True, "max_length": 512},
        "20 steps, rows of up to 512 tokens, packed",
    ),
    (length, {"num_train_epochs": 1}, "1 epoch"),
]


@pytest.mark.parametrize(("tell", "plan", "text"), FACTS)
def test_facts(tell: Callable[[dict[str, Any]], str], plan: dict[str, Any], text: str) -> None:
    assert tell(plan) == text
