"""Models that are not there, and the words for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nothing_tune.data.hub import hub_problem, words
from nothing_tune.engine import worker
from nothing_tune.engine.journal import Journal
from nothing_tune.errors import UsageError
from nothing_tune.plan.model import Plan
from tests.engine.support import MakeRun, events, train


class GatedRepoError(OSError):
    pass


class RepositoryNotFoundError(OSError):
    pass


class RevisionNotFoundError(OSError):
    pass


class LocalEntryNotFoundError(OSError):
    pass


@pytest.mark.parametrize(
    ("cause", "what", "hint"),
    [
        (GatedRepoError(), "is gated", "hf auth login"),
        (RepositoryNotFoundError(), "there is no model a/b", "check the name"),
        (RevisionNotFoundError(), "no such revision", "tree/main"),
        (LocalEntryNotFoundError(), "cannot be reached", "connect to the network"),
        (
            OSError("something odd\nmore"),
            "cannot be loaded: something odd",
            "see that its files are whole, or fetch it again",
        ),
    ],
)
def test_hub_errors_in_plain_words(cause: OSError, what: str, hint: str) -> None:
    outer = OSError(str(cause))
    outer.__cause__ = cause
    problem = hub_problem(outer, "a/b", "model.name_or_path")
    assert what in problem.what
    assert hint in problem.hint
    assert "models/nano" not in problem.hint
    assert problem.key == "model.name_or_path"


def test_the_words_of_an_error_are_a_whole_sentence() -> None:
    for said, told in (
        ("one\ntwo", "one"),
        ("\n the rule 'x':\n   because of y\n z", "the rule 'x': because of y"),
        ("one of:\n(1) this,\n(2) that,\n(3) those.\nmore", "one of: (1) this, (2) that, (3) those."),
        ("nothing follows:", "nothing follows"),
        ("", "OSError"),
    ):
        assert words(OSError(said)) == told


def test_a_model_that_is_not_there(make_run: MakeRun, tmp_path: Path) -> None:
    result = train(make_run("run-path", **{"model.name_or_path": str(tmp_path / "none")}))
    assert result["exit_code"] == 2
    assert f"looked for {tmp_path}/none" in result["error"]["problems"][0]["what"]
    (tmp_path / "empty").mkdir()
    result = train(make_run("run-empty", **{"model.name_or_path": str(tmp_path / "empty")}))
    assert result["exit_code"] == 2
    assert "has no config.json" in result["error"]["problems"][0]["what"]
    result = train(make_run("run-hub", **{"model.name_or_path": "nobody/no-such-model"}))
    problem = result["error"]["problems"][0]
    assert result["exit_code"] == 2
    assert "not in the local cache" in problem["what"]
    assert problem["hint"] == "connect to the network, or name a local folder"
    sampled = make_run(
        "run-sample", **{"model.name_or_path": "nobody/no-such-model", "values.data": {"sample": {"train": "s.jsonl"}}}
    )
    assert train(sampled)["error"]["problems"][0]["hint"] == (
        "connect to the network, or name a local folder; or add --with models/nano to rehearse the recipe without it"
    )


def test_environment_variables_are_read_where_the_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {
        "model": {"name_or_path": "${oc.env:MODELS}/x"},
        "data": {"train": ["${oc.env:ROWS,/rows}/a.jsonl"]},
        "values": "${oc.env:MODELS}",
    }
    monkeypatch.setenv("MODELS", "/models")
    read = worker.with_environment(plan)
    assert read["model"]["name_or_path"] == "/models/x"
    assert read["data"]["train"] == ["/rows/a.jsonl"]
    assert read["values"] == "${oc.env:MODELS}"
    monkeypatch.delenv("MODELS")
    with pytest.raises(UsageError, match="MODELS, which is not set"):
        worker.with_environment(plan)


def test_a_bug_is_called_a_bug_and_the_rest_a_failed_run() -> None:
    from nothing_tune.engine import failures
    from nothing_tune.engine.handover import digest

    with pytest.raises(AttributeError) as caught:
        digest(None)  # type: ignore[arg-type]
    code, report = failures.report(caught.value)
    assert code == 1
    assert "a bug in nothing-tune" in report["problems"][0]["what"]
    assert "traceback" in report
    with pytest.raises(ValueError, match="invalid literal") as refused:
        int("x")
    refused.value.__traceback__ = None
    assert failures.report(refused.value)[0] == 5
    assert failures.report(OSError(28, "No space left on device"))[0] == 74
    assert failures.report(RuntimeError("CUDA out of memory. Tried"))[0] == 71


def test_one_gpu_is_pinned_and_said(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    journal = Journal(run, 1)
    plan = Plan.from_json({**run.plan(), "training": {}})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    worker.prepare_environment(plan, journal)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    [warning] = events(run, "warning")
    assert "2 GPUs are visible; this run trains on one, number 2" in warning["what"]
    worker.prepare_environment(plan, journal)
    assert len(events(run, "warning")) == 1
    worker.prepare_environment(Plan.from_json(run.plan()), journal)  # a CPU plan sees none
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
