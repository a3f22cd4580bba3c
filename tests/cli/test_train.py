"""`tune train`, `resume` and `stop`, with an engine that does as the test says."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import run as runs
from nothing_tune.artifacts import Run, write_json
from nothing_tune.launchers import local
from tests.cli.conftest import PLAN

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

RECIPE = """\
layers: [base/qlora, methods/qlora, models/nano]
name: tiny
data: {train: rows.jsonl, eval: null}
training: {eval_strategy: "no", load_best_model_at_end: false}
"""
ENGINE = """
import json, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
event = {"time": time.time(), "attempt": 1, "type": "log", "step": 1, "metrics": {"loss": 2.0}}
status = {"state": "running", "step": 1, "total_steps": 1, "attempt": 1, "heartbeat": time.time()}
(path / "status.json").write_text(json.dumps(status))
with open(path / "events.jsonl", "a") as handle:
    handle.write(json.dumps(event) + "\\n")
result = {"state": "done", "exit_code": 0, "step": 1, "metrics": {"last_loss": 2.0}, "adapter": "adapter"}
(path / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Run]]:
    """Runs that the engine was started on."""
    seen: list[Run] = []
    processes: list[subprocess.Popen[bytes]] = []

    def start(run: Run) -> subprocess.Popen[bytes]:
        seen.append(run)
        processes.append(subprocess.Popen([sys.executable, "-c", ENGINE, str(run.path)]))
        return processes[-1]

    monkeypatch.setattr(runs, "start", start)
    yield seen
    for process in processes:
        process.wait(10)


def test_an_interrupt_while_the_engine_starts_reaches_it(
    tune: Callable[..., Any], demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Run] = []

    def start(run: Run) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGINT)
        return subprocess.Popen([sys.executable, "-c", ""])

    def interrupt(run: Run) -> bool:
        told.append(run)
        demo.result("stopped", 130, step=1)
        return True

    monkeypatch.setattr(runs, "start", start)
    monkeypatch.setattr(runs, "interrupt", interrupt)
    assert tune("resume", demo.run.id).code == 130
    assert told == [demo.run]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_dry_run_looks_at_the_name(tune: Callable[..., Any], started: list[Run], demo: Any) -> None:
    dry = ("train", "tiny.yaml", "--gpu", "t4", "--dry-run", "--name")
    said = tune(*dry, "My Run")
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        "error: 'My Run' cannot be a run's name\n"
        "  hint: use 2 to 128 lower-case letters, digits, dots, dashes, underscores; a letter or digit first\n"
    )
    said = tune(*dry, demo.run.id)
    assert (said.code, said.out) == (2, "")
    assert said.err == (
        f"error: a run named {demo.run.id} exists in {os.getcwd()}/runs\n"
        "  hint: add --continue to continue it, or choose another --name\n"
    )
    assert tune(*dry, demo.run.id, "--continue").code == 0
    assert tune(*dry, "v_1").code == 0
    assert started == []


def test_dry_run(tune: Callable[..., Any], started: list[Run]) -> None:
    said = tune("train", "tiny.yaml", "--gpu", "t4", "--dry-run", "--max-steps", "7", "--max-samples", "3")
    assert said.code == 0
    heading, _, _ = said.out.partition("\n\n")
    lines = dict(line.strip().split("  ", 1) for line in heading.splitlines()[1:])
    assert lines["steps"].strip() == "1 an epoch, 7 in 7 epochs; the last step of an epoch has 1"
    assert said.out.splitlines()[0] == "tiny  dry run: nothing was made"
    assert {k: v.strip() for k, v in lines.items()}["data"] == "rows.jsonl, at most 3 rows"
    assert lines["precision"] == "fp16: t4 has no bfloat16"
    assert lines["length"].strip().startswith("7 steps")
    assert lines["layers"].strip().endswith("tiny.yaml · command line")
    assert started == []
    assert sorted(os.listdir()) == ["rows.jsonl", "tiny.yaml"]
    plan = tune("train", "tiny.yaml", "--gpu", "t4", "--dry-run", "--json").json()["plan"]
    assert plan["training"]["fp16"] is True


def test_train(tune: Callable[..., Any], started: list[Run]) -> None:
    said = tune("train", "tiny.yaml", "--gpu", "cpu")
    (run,) = started
    assert said.code == 0
    assert said.out.startswith(f"tiny  {run.id}\n  model ")
    assert "\nstep 1/1  loss 2.000\n" in said.out
    assert said.out.endswith(f"  next    tune chat {run.id}\n          tune runs show {run.id}\n")
    assert (run.path / "recipe.yaml").is_file()


def test_json(tune: Callable[..., Any], started: list[Run]) -> None:
    said = tune("train", "tiny.yaml", "--gpu", "cpu", "--json")
    assert said.json()["run"] == started[0].id
    assert said.json()["metrics"] == {"last_loss": 2.0}
    assert said.err == ""


def test_detach(tune: Callable[..., Any], started: list[Run]) -> None:
    said = tune("train", "tiny.yaml", "--gpu", "cpu", "--detach", "--name", "nightly")
    assert said.out == "started nightly; look with: tune watch nightly\n"
    assert started[0].id == "nightly"


def test_continue(tune: Callable[..., Any], started: list[Run]) -> None:
    words = ("train", "tiny.yaml", "--gpu", "cpu", "--name", "nightly")
    assert tune(*words).code == 0
    again = tune(*words)
    assert again.code == 2
    assert "a run named nightly exists" in again.err
    write_json(started[0].path / "status.json", {"state": "done"})
    done = tune(*words, "--continue")
    assert (done.code, done.err) == (0, "run nightly is done already\n")
    assert len(started) == 1
    changed = tune(*words, "--continue", "training.learning_rate=1")
    assert changed.code == 65
    assert "hint: tune runs fork nightly training.learning_rate=1 makes a child run with it" in changed.err


def test_continue_again_and_again(tune: Callable[..., Any], started: list[Run]) -> None:
    """The same command, as a scheduler gives it: for each state that it finds the run in."""
    words = ("train", "tiny.yaml", "--gpu", "cpu", "--name", "nightly", "--continue", "--deadline", "23h50m")
    Path("runs/nightly").mkdir(parents=True)  # killed while the run was made
    assert tune(*words).code == 0
    for state in ("starting", "running", "stopped", "preempted", "failed"):
        write_json(started[0].path / "status.json", {"state": state, "step": 3})
        assert (state, tune(*words).code) == (state, 0)
    assert [r.id for r in started] == ["nightly"] * 6


def test_continue_what_goes_on(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "tiny.yaml", "--gpu", "cpu", "--name", "nightly", "--continue", "--detach")
    begun: list[Path] = []
    monkeypatch.setattr(local, "start", begun.append)
    assert tune(*words).code == 0
    with (begun[0] / "run.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        held = tune(*words)
    assert (held.code, len(begun)) == (77, 1)
    assert held.err.startswith("error: run nightly is held by process ")


def test_compose(tune: Callable[..., Any], started: list[Run]) -> None:
    from nothing_tune.recipe.library import library_root

    model = str(library_root() / "models" / "nano")
    for number, name in enumerate((model, "nano", "models/nano")):
        said = tune("train", "--model", name, "--data", "rows.jsonl", "--method", "lora", "--gpu", "cpu")
        assert said.code == 0
        assert said.err == f"composed a recipe from methods/lora for {name}; the run keeps it as recipe.yaml\n"
        recipe = (started[number].path / "recipe.yaml").read_text()
        assert f"name_or_path: {model}" in recipe
        assert tune("validate", str(started[number].path / "recipe.yaml")).code == 0


def test_missing_data(tune: Callable[..., Any], started: list[Run]) -> None:
    os.remove("rows.jsonl")
    said = tune("train", "tiny.yaml", "--gpu", "cpu")
    assert (said.code, started) == (2, [])
    assert "rows.jsonl" in said.err
    assert "where: tiny.yaml:3:" in said.err
    assert os.listdir() == ["tiny.yaml"]


def begun(demo: Any, name: str, state: str, *, step: int = 0) -> Run:
    """Another run in the state `state`, with a checkpoint at `step` where one is given."""
    path = demo.run.path.with_name(name)
    path.mkdir()
    write_json(path / "plan.json", PLAN)
    write_json(path / "status.json", {"state": state, "created": time.time()})
    if step:
        committed(Run(path), step)
    return Run(path)


def committed(run: Run, step: int) -> None:
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    write_json(folder / "COMMIT.json", {"step": step})


def test_resume_newest_unfinished(tune: Callable[..., Any], demo: Any, started: list[Run]) -> None:
    demo.status("stopped", step=3, total_steps=20)
    committed(demo.run, 3)
    begun(demo, "20261121-000000-other-l4-0000", "done")
    demo.run.path.with_name("20261122-000000-half-l4-0000").mkdir()
    said = tune("resume")
    assert said.err == f"resuming {demo.run.id}, the newest run that is not done\n"
    assert (said.code, [r.id for r in started]) == (0, [demo.run.id])


def test_resume_prefers_what_has_a_checkpoint(tune: Callable[..., Any], demo: Any, started: list[Run]) -> None:
    demo.status("failed")
    committed(demo.run, 3)
    begun(demo, "20261121-000000-other-l4-0000", "failed")
    said = tune("resume")
    assert said.err == (
        f"resuming {demo.run.id}, the newest unfinished run with a checkpoint; 20261121-000000-other-l4-0000 has none\n"
    )
    assert [r.id for r in started] == [demo.run.id]


def test_resume_what_never_began(tune: Callable[..., Any], demo: Any, started: list[Run]) -> None:
    demo.status("failed")
    assert tune("resume").err == f"resuming {demo.run.id} from its start: it has no checkpoint\n"
    assert len(started) == 1


def test_resume_passes_over_what_goes_on(
    tune: Callable[..., Any], demo: Any, started: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.status("stopped", step=3)
    committed(demo.run, 3)
    other = begun(demo, "20261121-000000-other-l4-0000", "running", step=9)
    monkeypatch.setattr(runs, "alive", lambda run: run.id == other.id)
    said = tune("resume")
    assert said.err == f"resuming {demo.run.id}, the newest run that is not done, but for those that go on now\n"
    assert [r.id for r in started] == [demo.run.id]
    demo.result(step=20)
    said = tune("resume")
    assert (said.code, len(started)) == (2, 1)
    assert said.err == (
        f"error: there is no unfinished run in {demo.run.path.parent} but {other.id}, which goes on now\n"
        f"  hint: tune watch {other.id} shows it\n"
    )


def test_resume_says_what_changes(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Path] = []
    monkeypatch.setattr(local, "start", started.append)
    words = ("train", "tiny.yaml", "--gpu", "cpu", "--name", "nightly", "--detach")
    tune(*words)
    said = tune("resume", "nightly", "--deadline", "90m", "training.num_train_epochs=9", "--detach")
    assert said.err == (
        "checkpoint.deadline: null -> 90m\n"
        "training.num_train_epochs: 3 -> 9; the learning rate follows the longer curve from here\n"
    )
    assert Run(started[-1]).plan()["checkpoint"]["deadline_s"] == 5400
    quiet = tune("resume", "nightly", "--deadline", "80m", "--detach", "--json")
    assert (quiet.err, quiet.json()) == ("", {"run": "nightly", "path": str(started[0])})
    wrong = tune("resume", "nightly", "--deadline", "soon")
    assert (wrong.code, len(started)) == (2, 3)
    assert "checkpoint.deadline must look like 23h50m, 90m or 45s, not the text 'soon'" in wrong.err


@pytest.mark.parametrize(
    "command", [("resume", "nightly"), ("train", "tiny.yaml", "--gpu", "cpu", "--name", "nightly")]
)
def test_other_versions_may_be_allowed(
    command: tuple[str, ...], tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(local, "start", started.append)
    monkeypatch.setenv("TUNE_ALLOW_VERSION_DRIFT", "")  # so that it is put back
    again = ("--continue",) if command[0] == "train" else ()
    tune("train", "tiny.yaml", "--gpu", "cpu", "--name", "nightly", "--detach")
    tune(*command, *again, "--detach")
    assert (os.environ["TUNE_ALLOW_VERSION_DRIFT"], len(started)) == ("", 2)
    tune(*command, *again, "--detach", "--allow-version-drift")
    assert (os.environ["TUNE_ALLOW_VERSION_DRIFT"], len(started)) == ("1", 3)


def test_resume_done(tune: Callable[..., Any], demo: Any, started: list[Run]) -> None:
    demo.result(step=20)
    said = tune("resume", "latest")
    assert (said.code, started) == (2, [])
    assert said.err.startswith(f"error: run {demo.run.id} is done: there is nothing to resume\n")


def test_stop_what_does_not_run(tune: Callable[..., Any], demo: Any) -> None:
    demo.status("running", step=3)
    assert tune("stop", "latest").err == (
        f"error: run {demo.run.id} is held by no engine on this machine\n  hint: it was started on elsewhere: stop it there\n"
    )
    demo.result("stopped", 130, step=3)
    assert tune("stop", "latest").err == (
        f"error: run {demo.run.id} is not running: it is stopped\n  hint: tune runs show {demo.run.id} tells more\n"
    )


def test_stop(tune: Callable[..., Any], demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.status("running", step=3)
    monkeypatch.setattr(runs, "alive", lambda run: True)

    def stop(run: Run, grace: float) -> str:
        demo.result("stopped", 130, step=4)
        return "stopped"

    monkeypatch.setattr(runs, "stop", stop)
    assert tune("stop", "latest").out == f"stopped at step 4; continue with: tune resume {demo.run.id}\n"
    assert json.loads(tune("stop", "latest", "--json").out) == {"run": demo.run.id, "state": "stopped", "step": 4}
    monkeypatch.setattr(runs, "stop", lambda run, grace: "running")
    slow = tune("stop", "latest", "--grace", "1")
    assert slow.code == 5
    assert "has not stopped within 1 s" in slow.err
