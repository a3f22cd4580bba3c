"""What comes of it: the exact outcome of everything that can be wrong with a run directory when a run goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run, checkpoint, write_json
from tests.faults.harness import (
    ROOT,
    Place,
    change,
    complete,
    events,
    expected,
    finished,
    problem,
    resumed,
    said,
    stop,
    tail,
    together,
    write_rows,
)
from tests.faults.test_signals import wait_for

OLD = ROOT / "tests" / "old_runs"


def stopped(place: Place, name: str = "run", step: int = 3, **plan: Any) -> Run:
    """A run stopped at `step`."""
    run = place.run(name, **plan)
    assert place.zygote.train(run, stop(step)) == 75, tail(run)
    return run


def paused(place: Place, run: Run, step: int = 3) -> tuple[Any, Callable[[], None]]:
    """An attempt that stands still at the end of `step`, and a function that lets it go on."""
    there, go = place.folder / "there", place.folder / "go"
    fault = {"point": "step", "step": step, "do": "wait", "there": str(there), "go": str(go)}
    child = place.zygote.attempt(run, fault)
    wait_for(there.exists)
    return child, go.touch


def lease(run: Run, number: int, **fields: Any) -> None:
    """Writes an attempt of somebody else."""
    now = time.time()
    data = {
        "attempt": number, "owner": f"{number:032x}", "host": "elsewhere", "boot": "another", "pid": 7, "created": now, "heartbeat": now,
        "ended": None, "state": "running", "exit_code": None, "error": None, "from_step": 0, "step": 2, "acts": [],
    }  # fmt: skip
    (run.path / "attempts").mkdir(exist_ok=True)
    write_json(run.path / "attempts" / f"{number:04}.json", {**data, **fields})


def test_two_at_once(place: Place) -> None:
    digest, run = expected(place, "whole"), place.run("run")
    first, go_on = paused(place, run)
    assert place.zygote.train(run) == 77
    assert f"run {run.id} is held by process {first.pid} on {socket.gethostname()} since " in tail(run)
    go_on()
    assert first.wait() == 0
    assert finished(run) == digest


def test_held_on_another_host(place: Place) -> None:
    run = stopped(place)
    before = complete(run)
    lease(run, 2)
    assert place.zygote.train(run) == 77
    assert f"run {run.id} is held by process 7 on elsewhere since " in tail(run)
    assert complete(run) == before


def test_an_abandoned_lease_is_taken_over(place: Place) -> None:
    digest, run = expected(place, "whole"), stopped(place)
    lease(run, 2, created=1.0, heartbeat=1.0)
    patience = {"do": "set", "name": "nothing_tune.artifacts.attempts:WATCH_S", "value": 0.5, "early": True}
    assert place.zygote.train(run, patience) == 0
    assert finished(run) == digest
    assert [json.loads(p.read_text())["attempt"] for p in sorted((run.path / "attempts").iterdir())] == [1, 2, 3]


def test_the_lease_of_a_dead_process_here_is_taken_over_at_once(place: Place) -> None:
    digest, run = expected(place, "whole"), place.run("run")
    assert place.zygote.train(run, {"point": "forward", "nth": 9, "do": "sigkill"}) not in (0, 77)
    mine = json.loads((run.path / "attempts" / "0001.json").read_text())
    lease(run, 1, **{**mine, "pid": 2**22 - 3, "ended": None, "heartbeat": time.time()})
    assert resumed(place, run) == digest


def test_a_run_that_was_taken_over_commits_nothing_more(place: Place) -> None:
    run = place.run("run")
    child, go_on = paused(place, run)
    wait_for(lambda: complete(run) == [2])
    lease(run, 2)
    go_on()
    assert child.wait() == 77
    assert complete(run) == [2]
    assert "taken over by attempt 2 on elsewhere" in tail(run)
    assert not run.adapter.exists()


def test_a_moved_run_directory(place: Place) -> None:
    digest, run = expected(place, "whole"), stopped(place)
    other = Run(place.folder / "elsewhere" / "another-name")
    other.path.parent.mkdir()
    shutil.move(run.path, other.path)
    assert resumed(place, other) == digest


def test_the_run_directory_of_version_0_1_0(place: Place) -> None:
    archives = sorted(OLD.glob("*.tar.gz"))
    assert len(archives) == 1
    for archive in archives:
        run = unpacked(archive, place.folder / archive.name.removesuffix(".tar.gz"))
        whole = Run(place.folder / "whole")
        whole.path.mkdir()
        shutil.copy2(run.path / "plan.json", whole.path)
        assert together(place.zygote.train, (whole, run)) == [0, 0], tail(whole) + tail(run)
        assert [e["step"] for e in events(run, "resume")] == [13]
        assert "no fingerprints" in said(run)
        have, want = (run.result() or {})["metrics"], (whole.result() or {})["metrics"]
        assert (run.result() or {})["step"] == (whole.result() or {})["step"] > 13
        assert have["num_tokens"] == want["num_tokens"]
        assert have["last_loss"] == pytest.approx(want["last_loss"], rel=0.02)


def unpacked(archive: Path, folder: Path) -> Run:
    """The run directory in an archive, its paths pointing at this checkout's recipes."""
    folder.mkdir()
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".yaml") and "checkpoints" not in path.parts:
            path.write_text(path.read_text().replace("@RECIPES@", str(ROOT / "recipes")))
    return Run(folder)


def other_rows(place: Place, run: Run) -> None:
    write_rows(place.rows, 16, seed=99)


def fewer_rows(place: Place, run: Run) -> None:
    lines = place.rows.read_text().splitlines(keepends=True)
    place.rows.write_text("".join(lines[:-1]))


def one_letter(place: Place, run: Run) -> None:
    place.rows.write_text(place.rows.read_text().replace("alpha", "alphb", 1))


def other_held_out(place: Place, run: Run) -> None:
    write_rows(place.held_out, 4, seed=98)


def template(place: Place, run: Run) -> None:
    path = place.model / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_start|>", "<|im_start|> "))


def tokenizer(place: Place, run: Run) -> None:
    path = place.model / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["merges"] = data["model"]["merges"][:-1]
    path.write_text(json.dumps(data))


def base_weights(place: Place, run: Run) -> None:
    path = place.model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 0x10
    path.write_bytes(data)


def learning_rate(place: Place, run: Run) -> None:
    change(run, **{"training.learning_rate": 3e-4})


def rank(place: Place, run: Run) -> None:
    change(run, **{"peft.r": 8})


def fewer_steps(place: Place, run: Run) -> None:
    change(run, **{"training.max_steps": 5})


REFUSED: dict[str, tuple[Callable[[Place, Run], None], list[str]]] = {
    "other rows": (other_rows, ["the training rows are not those that the run was started with"]),
    "a row less": (fewer_rows, ["the training rows are not those", "with: 16 rows "]),
    "one letter": (one_letter, ["the training rows are not those"]),
    "other evaluation rows": (other_held_out, ["the evaluation rows are not those"]),
    "another template": (template, ["the chat template is not the one"]),
    "another tokenizer": (tokenizer, ["the tokenizer is not the one"]),
    "another base": (base_weights, ["the base model is not the one"]),
    "another learning rate": (learning_rate, ["training.learning_rate", "0.001", "0.0003"]),
    "another rank": (rank, ["peft.r", "4", "8"]),
    "fewer steps": (fewer_steps, ["training.max_steps", "7", "5", "it may only grow"]),
}


def refused(place: Place, case: str) -> str | None:
    """Why a run went on with something else, or did not say why it does not; None when it was refused as it should be."""
    alter, words = REFUSED[case]
    folder = place.folder / case.replace(" ", "-")
    own = Place(place.zygote, folder, folder / "model", folder / "rows.jsonl", folder / "held-out.jsonl")
    shutil.copytree(place.model, own.model)
    shutil.copy2(place.rows, own.rows)
    shutil.copy2(place.held_out, own.held_out)
    run = stopped(own, **{"training.eval_strategy": "steps", "training.eval_steps": 5})
    before = complete(run)
    alter(own, run)
    code = place.zygote.train(run)
    text = json.dumps((run.result() or {}).get("error"), ensure_ascii=False)
    missing = [word for word in [*words, "tune runs fork"] if word not in text]
    if code == 65 and not missing and complete(run) == before:
        return None
    return f"{case}: exit {code}, checkpoints {complete(run)}, not said: {missing} in {text} {tail(run)}"


def test_a_run_does_not_go_on_with_something_else(place: Place) -> None:
    assert [f for f in together(lambda case: refused(place, case), REFUSED) if f] == []


def test_what_may_change(place: Place) -> None:
    digest, run = expected(place, "whole"), stopped(place)
    change(run, **{"training.logging_steps": 2, "training.save_steps": 3, "checkpoint.keep": 3})
    assert resumed(place, run) == digest


@pytest.mark.slow
def test_steps_may_grow(place: Place) -> None:
    run = stopped(place)
    change(run, **{"training.max_steps": 9})
    resumed(place, run)
    assert (run.result() or {})["step"] == 9
    assert "goes on to step 9 instead of 7" in said(run)


@pytest.mark.parametrize(
    ("part", "allowed", "code"), [(2, False, 0), (1, False, 65), (1, True, 0)], ids=["patch", "minor", "minor, allowed"],
)  # fmt: skip
def test_another_version_of_a_library(place: Place, part: int, allowed: bool, code: int) -> None:
    run = stopped(place)
    now = checkpoint.versions()["transformers"]
    parts = [int(p) for p in now.split(".")[:3]]
    parts[part] += 1
    other = ".".join(map(str, parts))
    fault = {"do": "version", "package": "transformers", "version": other, "early": True}
    env = {"TUNE_ALLOW_VERSION_DRIFT": "1"} if allowed else {}
    assert place.zygote.train(run, fault, env=env) == code, tail(run)
    assert f"transformers was {now} and is {other}" in said(run)
    if code:
        assert "--allow-version-drift" in problem(run)["hint"]


def test_another_world_size(place: Place) -> None:
    whole, run = place.run("whole"), stopped(place)
    assert place.zygote.train(whole) == 0
    plan = run.plan()
    plan |= {
        "launch": {"processes": 2},
        "world_size": 2,
    }  # what the recipe says stays: the plan solves accumulation anew
    plan["training"]["gradient_accumulation_steps"] = 1
    plan["values"]["launch"] = {"processes": 2}
    write_json(run.path / "plan.json", plan)
    assert place.zygote.train(run) == 0, tail(run)
    assert "not bit for bit" in said(run)
    have, want = run.result() or {}, whole.result() or {}
    assert (have["step"], have["epoch"]) == (want["step"], want["epoch"])
    assert have["metrics"]["num_tokens"] == want["metrics"]["num_tokens"]
    assert have["metrics"]["last_loss"] == pytest.approx(want["metrics"]["last_loss"], rel=1e-2)


@pytest.mark.slow
def test_a_done_run_stays_done(place: Place) -> None:
    run = place.run("run")
    assert place.zygote.train(run) == 0
    digest, log = finished(run), (run.path / "events.jsonl").read_bytes()
    assert place.zygote.train(run) == 0
    assert finished(run) == digest
    assert (run.path / "events.jsonl").read_bytes() == log


def test_torn_small_files_do_not_end_a_run(place: Place) -> None:
    """What a power cut leaves of the files that are not flushed."""
    digest, run = expected(place, "whole"), stopped(place)
    (run.path / "status.json").write_bytes(b"")
    (run.path / "checkpoints" / "latest.json").write_text('{"step": ')
    with open(run.path / "events.jsonl", "ab") as handle:
        handle.write(b'{"time": 17634')
    before = len(events(run, "log"))
    assert place.zygote.train(run) == 0, tail(run)
    assert finished(run) == digest
    assert len(events(run, "log")) == before + 4, "an event was lost behind the torn line"
    assert os.path.getsize(run.path / "status.json") > 2
