"""Taking up a run: with what changes, in which state, and what is left alone."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import run as runs
from nothing_tune.artifacts import Run, read_json, write_json
from nothing_tune.errors import Busy, ResumeRefused, UsageError
from nothing_tune.plan import make_plan
from nothing_tune.recipe import load_recipe

pytestmark = pytest.mark.engine  # nothing heavy is imported, but it takes seconds

RECIPE = """\
layers: [methods/qlora, models/nano]
name: tiny
data: {train: rows.jsonl, eval: null}
training: {eval_strategy: "no", load_best_model_at_end: false, num_train_epochs: 2}
"""
FOLLOWS = "the learning rate follows the longer curve from here"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Callable[..., Run]:
    """`make("key=value", continue_=True)` prepares the run `nightly`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')

    def prepare(*overrides: str, continue_: bool = True, gpu: str = "cpu", name: str = "nightly") -> Run:
        recipe = load_recipe("tiny.yaml", gpu=gpu, overrides=overrides)
        root = tmp_path / "runs"
        return runs.prepare(recipe, make_plan(recipe), root=root, name=name, continue_=continue_, say=said.append)

    return prepare


@pytest.fixture
def held() -> Iterator[Callable[[Run], None]]:
    """`held(run)`: a process works on the run from now on."""
    handles = []

    def hold(run: Run) -> None:
        handle = open(run.path / "run.lock", "w", encoding="utf-8")  # noqa: SIM115
        handle.write(json.dumps({"pid": 4711, "host": "elsewhere", "since": time.time()}))
        handle.flush()
        fcntl.flock(handle, fcntl.LOCK_EX)
        handles.append(handle)

    yield hold
    for handle in handles:
        handle.close()


def contents(run: Run) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in run.path.iterdir() if p.name != "run.lock"}


def test_the_same_command_changes_nothing(make: Callable[..., Run], said: list[str]) -> None:
    before = contents(make())
    assert contents(make()) == before
    assert said == []


def test_free_changes_are_written_and_said(make: Callable[..., Run], said: list[str]) -> None:
    make()
    run = make("checkpoint.deadline=90m", "training.save_steps=7")
    assert said == ["checkpoint.deadline: null -> 90m", "training.save_steps: 5 -> 7"]
    assert run.plan()["checkpoint"]["deadline_s"] == 5400
    assert load_recipe(run.path / "recipe.yaml").get("training.save_steps") == 7
    runs.resume(run, ["~checkpoint.deadline", "training.save_steps=9"], said.append)
    assert said[2:] == ["checkpoint.deadline: 90m -> null", "training.save_steps: 7 -> 9"]


def test_longer(make: Callable[..., Run], said: list[str]) -> None:
    run = make()
    write_json(run.path / "status.json", {"state": "done"})
    write_json(run.path / "result.json", {"state": "done"})
    make("training.num_train_epochs=3")
    assert said == [f"training.num_train_epochs: 2 -> 3; {FOLLOWS}"]
    assert (run.status()["state"], run.result()) == ("starting", None)


def test_longer_where_steps_decide(make: Callable[..., Run], said: list[str]) -> None:
    run = make("training.max_steps=4")
    write_json(run.path / "status.json", {"state": "done"})
    for words in ([], ["training.num_train_epochs=9"]):
        with pytest.raises(UsageError) as caught:
            runs.resume(run, words, said.append)
        assert str(caught.value) == (
            "error: run nightly is done: there is nothing to resume\n"
            "  hint: to train on: tune resume nightly training.max_steps=N; it is 4 and decides, not the epochs"
        )
    assert said == []
    make("training.max_steps=4", "training.num_train_epochs=9")
    assert said == ["training.num_train_epochs: 2 -> 9; it changes nothing: training.max_steps, 4, decides"]
    assert run.status()["state"] == "done"
    runs.resume(run, ["training.max_steps=6"], said.append)
    assert said[1:] == [f"training.max_steps: 4 -> 6; {FOLLOWS}"]


def test_frozen(make: Callable[..., Run], said: list[str]) -> None:
    run = make()
    before = contents(run)
    for change in (
        lambda: make("training.learning_rate=1e-4", "training.save_steps=7"),
        lambda: runs.resume(run, ["training.learning_rate=1e-4"], said.append),
    ):
        with pytest.raises(ResumeRefused) as caught:
            change()
        assert str(caught.value) == (
            "error: training.learning_rate was 0.0002 and would be 0.0001\n"
            "  hint: tune runs fork nightly training.learning_rate=0.0001 makes a child run with it"
        )
    assert (said, contents(run)) == ([], before)


def test_done(make: Callable[..., Run]) -> None:
    run = make()
    write_json(run.path / "status.json", {"state": "done"})
    assert make() == run
    with pytest.raises(UsageError) as caught:
        runs.resume(run)
    assert str(caught.value) == (
        "error: run nightly is done: there is nothing to resume\n"
        "  hint: to train on: tune resume nightly training.num_train_epochs=N"
    )
    with pytest.raises(UsageError, match="run nightly is done: there is nothing to resume"):
        runs.resume(run, ["training.save_steps=7"])


def test_what_a_process_works_on_is_left_alone(
    make: Callable[..., Run], held: Callable[[Run], None], said: list[str]
) -> None:
    run = make()
    held(run)
    before = contents(run)
    assert make() == run  # nothing would change: the start tells who has it
    for change in (
        lambda: make("training.save_steps=7"),
        lambda: make("training.num_train_epochs=3"),
        lambda: runs.resume(run, ["training.save_steps=7"], said.append),
        lambda: runs.start(run),
    ):
        with pytest.raises(Busy) as caught:
            change()
        assert caught.value.exit_code == 77
        assert "run nightly is held by process 4711 on elsewhere" in str(caught.value)
    assert (said, contents(run)) == ([], before)


@pytest.mark.parametrize("left", [[], ["lock.json"], ["lock.json", "status.json", "recipe.yaml", ".plan.json.7.tmp"]])
def test_a_run_that_was_killed_while_it_was_made(make: Callable[..., Run], left: list[str]) -> None:
    folder = Path("runs/nightly")
    folder.mkdir(parents=True)
    for name in left:
        (folder / name).write_text("{")
    with pytest.raises(UsageError, match="a run named nightly exists"):
        make(continue_=False)
    run = make()
    assert run.plan()["name"] == "tiny"
    assert read_json(run.path / "lock.json")["layers"]
    assert run.status()["state"] == "starting"


def test_another_folder_is_no_run(make: Callable[..., Run]) -> None:
    folder = Path("runs/nightly")
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError):
        make()
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]


def test_a_name_cannot_lead_elsewhere(make: Callable[..., Run], tmp_path: Path) -> None:
    make()
    for name in ("../runs/nightly", "nightly/../nightly", "nightly\n"):
        with pytest.raises(UsageError, match="cannot be a run's name"):
            make(name=name)


def test_a_run_of_an_older_version_goes_on(make: Callable[..., Run], said: list[str]) -> None:
    """Settings that came later, at their usual values, are no change."""
    run = make()
    plan: dict[str, Any] = run.plan()
    for key in ("non_finite_steps", "loss_spike", "rehearse", "hang_minutes"):
        del plan["values"]["monitor"][key]
    for key in ("max_loss_minutes", "max_overhead", "deadline", "on_commit"):
        del plan["values"]["checkpoint"][key]
    del plan["values"]["launch"], plan["launch"]
    write_json(run.path / "plan.json", plan)
    make()
    assert (said, run.plan()) == ([], plan)
    make("checkpoint.deadline=90m", "launch.processes=2")
    assert said[0] == "checkpoint.deadline: null -> 90m"
    assert said[1].startswith("launch.processes: null -> 2; ")
    assert run.plan()["world_size"] == 2


def test_a_run_of_version_1_keeps_choosing_its_rows_as_then(make: Callable[..., Run], said: list[str]) -> None:
    run = make()
    plan: dict[str, Any] = run.plan()
    new = ("columns", "transcript", "group_by", "stratify_by", "max_bad_rows", "dedupe", "near_duplicates", "leakage",
           "min_tokens", "max_tokens", "truncation")  # fmt: skip
    for key in new:
        del plan["values"]["data"][key], plan["data"][key]
    write_json(run.path / "plan.json", {**plan, "version": 1})
    before = run.plan()
    make()
    assert (said, run.plan()) == ([], before)
    make("training.save_steps=7", "data.max_bad_rows=0.1")
    now = run.plan()
    assert said == ["data.max_bad_rows: null -> 0.1", "training.save_steps: 5 -> 7"]
    assert (now["version"], now["data"]["dedupe"], now["data"]["leakage"]) == (1, "none", "keep")
    make("training.save_steps=9", "data.max_bad_rows=0.1")
    assert (run.plan()["version"], run.plan()["data"]) == (1, now["data"])
    with pytest.raises(ResumeRefused, match=r"data\.dedupe was exact and would be near"):
        make("data.dedupe=near")


def test_sources_of_every_kind_are_known_again(make: Callable[..., Run], tmp_path: Path, said: list[str]) -> None:
    for name in ("one", "two"):
        (tmp_path / "rows").mkdir(exist_ok=True)
        (tmp_path / "rows" / f"{name}.jsonl").write_text(f'{{"text": "{name}"}}\n')
    run = make("data.train=[{source: rows, max_rows: 9}, 'rows/*.jsonl', rows.jsonl]")
    data = read_json(run.path / "lock.json")["data"]
    assert [(mark.get("files"), mark["bytes"]) for mark in data.values()] == [(2, 32), (2, 32), (None, 14)]
    (tmp_path / "rows").rename(tmp_path / "moved")
    moved = f"{{source: {tmp_path}/moved, max_rows: 9}}, '{tmp_path}/moved/*.jsonl', {tmp_path}/rows.jsonl"
    runs.resume(run, [f"data.train=[{moved}]"], said.append)
    assert said[0].startswith("data.train: [")
    with pytest.raises(ResumeRefused):
        runs.resume(run, [f"data.train=[{moved.replace('9', '8')}]"])
    (tmp_path / "moved" / "two.jsonl").rename(tmp_path / "moved" / "before.jsonl")  # another order of files
    (tmp_path / "moved").rename(tmp_path / "again")
    with pytest.raises(ResumeRefused):
        runs.resume(run, [f"data.train=[{moved.replace('moved', 'again')}]"])


def test_data_that_only_lies_elsewhere_is_no_other_data(
    make: Callable[..., Run], tmp_path: Path, said: list[str]
) -> None:
    run = make()
    (tmp_path / "rows.jsonl").rename(tmp_path / "moved.jsonl")
    new = str(tmp_path / "moved.jsonl")
    runs.resume(run, [f"data.train={new}"], said.append)
    assert said == [f"data.train: {tmp_path / 'rows.jsonl'} -> {new}"]
    assert run.plan()["data"]["train"] == new
    (tmp_path / "moved.jsonl").rename(tmp_path / "again.jsonl")  # the new place is known from here on
    runs.resume(run, [f"data.train={tmp_path / 'again.jsonl'}"])
    (tmp_path / "other.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(ResumeRefused) as caught:
        runs.resume(run, [f"data.train={tmp_path / 'other.jsonl'}"])
    assert caught.value.problems[0].what == (
        f"data.train was {tmp_path / 'again.jsonl'} and would be {tmp_path / 'other.jsonl'}"
    )
