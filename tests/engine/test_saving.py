"""The commit beside the training, its command, and what happens when either fails."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import checkpoint
from nothing_tune.engine import saving
from tests.engine.support import MakeRun, events, train

KEPT = {"best": False, "metric": "eval_loss", "greater_is_better": False, "keep": 2}


def test_a_command_runs_after_each_commit(make_run: MakeRun, tmp_path: Path) -> None:
    script = tmp_path / "hook.py"
    script.write_text(
        "import json, os, pathlib\n"
        "folder = pathlib.Path(os.environ['TUNE_CHECKPOINT'])\n"
        "step = json.loads((folder / 'COMMIT.json').read_text())['step']\n"
        "with open(pathlib.Path(os.environ['TUNE_RUN_DIR']) / 'seen', 'a') as out: out.write(f'{step}\\n')\n"
    )
    run = make_run(checkpoint={**KEPT, "on_commit": f"{sys.executable} '{script}'"})
    assert train(run)["state"] == "done"
    assert (run.path / "seen").read_text().split() == ["2", "4", "6"]
    assert checkpoint.steps(run.checkpoints) == [4, 6] or 2 in checkpoint.steps(run.checkpoints)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (f"{sys.executable} -c \"import sys; sys.exit('volume is gone')\"", "it ended with 1: volume is gone"),
        ("/nonexistent/program --x", "[Errno 2] No such file or directory: '/nonexistent/program'"),
    ],
)
def test_a_command_that_fails_costs_no_checkpoint(make_run: MakeRun, command: str, why: str) -> None:
    run = make_run(
        checkpoint={**KEPT, "on_commit": command}, **{"training.eval_strategy": "no", "training.save_steps": 1}
    )
    assert train(run)["state"] == "done"
    assert checkpoint.complete(run.checkpoints) == [1, 2, 3, 4, 5, 6]  # nothing was rotated away
    told = [e["what"] for e in events(run, "warning") if "on_commit" in e["what"]]
    assert told[0] == f"checkpoint.on_commit failed for checkpoint-1: {why}"
    assert len(told) == 6


def test_a_failure_beside_the_training_ends_the_run(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, run = make_run("run-whole"), make_run("run-parts")
    expected = train(whole)
    original = checkpoint.write_json

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == checkpoint.COMMIT and path.parent.name == "checkpoint-4":
            raise OSError(28, "No space left on device", str(path))
        original(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_json", full)
        result = train(run)
    assert result["exit_code"] == 74
    assert checkpoint.complete(run.checkpoints) == [2]
    second = train(run)
    assert second["digest"] == expected["digest"]
    assert [e["why"] for e in events(run, "torn")] == ["it was never completed"]


def test_a_full_disk_is_given_room_once(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from nothing_tune.engine.train import Trainer

    original, failed = Trainer.tune_state, []

    def tune_state(self: Trainer) -> dict[str, Any]:
        if self.state.global_step == 5 and not failed:
            failed.append(sorted(checkpoint.complete(Path(self.args.output_dir))))
            raise OSError(28, "No space left on device")
        return original(self)

    monkeypatch.setattr(Trainer, "tune_state", tune_state)
    run = make_run(checkpoint={**KEPT, "keep": 9}, **{"training.eval_strategy": "no", "training.save_steps": 1})
    result = train(run)
    assert result["state"] == "done"
    assert failed == [[1, 2, 3, 4]]
    assert checkpoint.complete(run.checkpoints) == [3, 4, 5, 6]
    told = "the disk is full: checkpoint-1, checkpoint-2 removed to make room"
    assert told in [e["what"] for e in events(run, "warning")]


def test_room_is_looked_for(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert saving.has_room(tmp_path, 0)
    assert saving.has_room(tmp_path / "missing", free * 2)
    assert saving.has_room(tmp_path, free // 2)
    assert not saving.has_room(tmp_path, free * 2)


def test_a_checkpoint_without_a_part_is_none(make_run: MakeRun) -> None:
    run = make_run(**{"training.save_only_model": True})
    result = train(run)
    assert result["exit_code"] == 74
    assert result["error"]["problems"][0]["what"] == (
        "checkpoint-2 lacks optimizer.pt, scheduler.pt, rng_state.pth: it could not be resumed exactly, so it is no checkpoint"
    )
    assert result["error"]["problems"][0]["hint"] == "leave out training.save_only_model"


def test_nothing_is_pickled_that_could_hold_a_secret(make_run: MakeRun) -> None:
    run = make_run()
    train(run)
    for folder in run.checkpoints.glob("checkpoint-*"):
        assert not (folder / "training_args.bin").exists()
        assert "training_args.bin" not in json.loads((folder / checkpoint.COMMIT).read_text())["files"]
