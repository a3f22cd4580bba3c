"""The last lines of a run: how far it came, in which time, why it ended, and what they propose to do next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from nothing_tune.artifacts import checkpoint
from tests.cli.test_live import HEADER, ID


def commit(demo: Any, step: int) -> None:
    """A complete checkpoint of `step`."""
    folder = demo.run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    checkpoint.commit(folder, step=step, attempt=1, run=ID)


def test_the_last_step_that_was_seen_counts(tune: Callable[..., Any], demo: Any) -> None:
    commit(demo, 71)
    demo.log(75, 1.5)
    demo.result("failed", 5, step=71)
    demo.status("failed", step=76, total_steps=120)
    assert "\nfailed  76 steps\n" in tune("watch", ID).out
    assert "\nfailed  76 steps\n" in tune("runs", "show", ID).out


def test_the_newest_checkpoint_counts_where_the_status_is_older(tune: Callable[..., Any], demo: Any) -> None:
    """status.json is written every few seconds: what was killed between has gone on to its checkpoints."""
    for step in (4, 6):
        commit(demo, step)
    (demo.run.checkpoints / "checkpoint-8").mkdir()
    demo.log(2, 1.5)
    demo.status("running", step=2, total_steps=60, heartbeat=time.time() - 3600)
    assert tune("runs", "--json").json()[0]["step"] == 6
    assert " lost   6/60 " in tune("runs").out
    assert "\nlost  6 steps\n" in tune("runs", "show", ID).out
    assert tune("watch", ID).err.startswith(f"error: the engine of run {ID} ended without a word, at step 6\n")
    demo.result("failed", 65, step=2, error={"problems": [{"what": "other rows"}]})
    assert "\nfailed: it was not continued and is as it was, at step 6\n" in tune("watch", ID).out


def test_a_refused_resume_leaves_the_run_as_it_was(tune: Callable[..., Any], demo: Any) -> None:
    commit(demo, 20)
    problem = {"what": "these are not the training rows that the run was started with", "hint": "put them back"}
    for state in ("stopped", "failed"):
        demo.result(state, 65, step=20, error={"problems": [problem]})
        said = tune("watch", ID)
        assert said.code == 65
        assert said.err == f"error: {problem['what']}\n  hint: put them back\n"
        end = f"\n{state}: it was not continued and is as it was, at step 20\n  run   runs/{ID}\n"
        assert said.out.endswith(f"{end}  next  tune runs show {ID}\n")
        said = tune("runs", "show", ID)
        assert f"{end.removesuffix(f'  run   runs/{ID}{chr(10)}')}  run  runs/{ID}\n" in said.out
        assert said.out.endswith(f"\nerror: {problem['what']}\n  hint: put them back\n")


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (
            "stopped at step 56, in time before the deadline",
            "  why   stopped at step 56, in time before the deadline\n",
        ),
        ("ended from outside (SIGTERM)", ""),
    ],
)
def test_why_a_run_was_preempted(tune: Callable[..., Any], demo: Any, what: str, line: str) -> None:
    demo.result("preempted", 75, step=56, error={"problems": [{"what": what}]})
    said = tune("watch", ID)
    assert (said.code, said.err) == (75, "")
    assert said.out == HEADER + (
        "\n"
        f"preempted at step 56; continue with: tune resume {ID}\n"
        f"{line}"
        f"  run   runs/{ID}\n"
        f"  next  tune runs show {ID}\n"
    )


@pytest.mark.parametrize(
    ("attempt", "metrics", "head"),
    [
        (1, {"trained_s": 12.0}, "done  120 steps in 0:00:15"),
        (3, {"trained_s": 65.0}, "done  120 steps in 0:01:05, 3 attempts"),
        (3, {}, "done  120 steps, 3 attempts"),
    ],
)
def test_time_of_all_attempts_and_digest(
    tune: Callable[..., Any], demo: Any, attempt: int, metrics: dict[str, float], head: str
) -> None:
    digest = "3d4784a1b2c3" + "0" * 52
    demo.result(step=120, attempt=attempt, duration_s=15.2, metrics=metrics, adapter="adapter", digest=digest)
    end = f"\n{head}\n  result  runs/{ID}/adapter\n  digest  3d4784a1b2c3\n  next    tune chat {ID}\n"
    assert tune("runs", "show", ID).out.endswith(end)
    assert tune("watch", ID).out.endswith(f"{end}          tune runs show {ID}\n")


def test_the_log_is_shown_for_what_nobody_expected(tune: Callable[..., Any], demo: Any) -> None:
    (demo.run.path / "engine.log").write_text("Traceback\n")
    problem = {
        "what": "the disk refused to write",
        "key": "",
        "place": None,
        "layer": "",
        "hint": "",
        "severity": "error",
    }
    for code, shown in ((74, False), (71, False), (5, True), (1, True)):
        demo.result("failed", code, step=3, error={"problems": [problem], "traceback": "..."})
        assert ("Traceback" in tune("watch", ID).err) is shown
