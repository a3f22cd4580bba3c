"""The job `probe`: the real libraries, libraries that crash or hang, and the doctor on runs that really trained."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run
from nothing_tune.run.doctor import diagnose
from nothing_tune.run.doctor.environment import probed
from nothing_tune.run.doctor.probing import findings, run_probe
from tests.engine.support import MakeRun, train


@pytest.mark.slow
def test_the_libraries_work_together() -> None:
    probe = run_probe()
    assert probe.code == 0
    assert [e["what"] for e in probe.events if e["type"] == "begin"] == [
        "torch", "cuda", "together", "bitsandbytes", "attention", "kernels",
    ]  # fmt: skip
    found = {e["what"]: e for e in probe.events if e["type"] == "found"}
    assert len(found) == 6
    assert {name.split()[0] for name in found["together"]["packages"]} == {
        "transformers",
        "accelerate",
        "peft",
        "datasets",
        "trl",
    }
    assert 0.02 < found["bitsandbytes"]["relative_error"] < 0.15
    assert found["bitsandbytes"]["library"].endswith(".so")
    assert found["attention"]["right"]
    assert found["kernels"]["relative_error"] < 0.05
    assert {f.status for f in findings(probe)} <= {"ok", "skip"}


def broken(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    """Puts a package of that name before the real one, for processes that are started."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{root}")


FAULTS = [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "importing torch was ended by signal 11 (SIGSEGV)"),
    (
        "import sys; print('no driver for you', file=sys.stderr); import os; os._exit(3)",
        "importing torch ended with code 3: no driver for you",
    ),
    (
        "raise ImportError('libcudart.so.12: cannot open shared object file')",
        "ImportError: libcudart.so.12: cannot open shared object file",
    ),
    ("import sys; sys.exit('this CPU is too old')", "SystemExit: this CPU is too old"),
    ("import time; time.sleep(60)", "importing torch did not end within 3 s"),
]


@pytest.mark.slow
def test_a_torch_that_crashes_hangs_or_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(Path(tempfile.gettempdir()).glob("tune-probe-*"))
    for number, (code, what) in enumerate(FAULTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        broken(folder, monkeypatch, "torch", code)
        found = probed(3.0 if "sleep" in code else 60.0)
        assert [(f.name, f.status, f.what) for f in found] == [("import torch", "fail", what)]
        assert found[0].cure
    assert set(Path(tempfile.gettempdir()).glob("tune-probe-*")) <= before


@pytest.mark.slow
def test_a_library_that_does_not_fit_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(tmp_path, monkeypatch, "transformers", "from torch import a_name_that_was_removed")
    found = {f.name: f for f in probed()}
    assert (found["import torch"].status, found["imports"].status) == ("ok", "fail")
    assert "cannot import name 'a_name_that_was_removed' from 'torch'" in found["imports"].what
    assert found["imports"].cure.startswith("install the tested set: pip install transformers==")


def test_real_runs(make_run: MakeRun, tmp_path: Path) -> None:
    """One that is well, one whose learning rate is absurd, one with data that is not there."""
    well = make_run("well", **{"training.max_steps": 16, "training.eval_steps": 8})
    train(well)
    found = diagnose(well)
    assert not found.failed
    assert found.summary.startswith("done: 16 of 16 steps, loss ")
    assert not {"diverged", "failed", "lost", "loss-rises"} & {c.rule for c in found.causes}

    wild = make_run("wild", **{"training.learning_rate": 1e30, "training.max_steps": 12, "training.max_grad_norm": 0.0})
    assert train(wild)["exit_code"] == 70
    cause = diagnose(wild).causes[0]
    assert (cause.rule, cause.severity) == ("diverged", "fail")
    assert any("rows.jsonl:" in text for text in cause.evidence)
    assert any("training.learning_rate=5e+29" in command for command, _ in cause.cures)

    absent = make_run("absent", **{"data.train": str(tmp_path / "nothing.jsonl")})
    train(absent)
    found = diagnose(absent)
    assert found.failed
    assert "nothing.jsonl" in found.causes[0].what
    json.dumps(found.to_json())


def test_a_run_whose_weights_learn_nothing(make_run: MakeRun) -> None:
    run: Run = make_run(
        "zero",
        **{
            "training.learning_rate": 1e-12,
            "training.max_steps": 20,
            "training.eval_steps": 20,
            "training.warmup_steps": 0,
        },
    )
    train(run)
    rules = {c.rule: c for c in diagnose(run).causes}
    assert rules["loss-flat"].why == "the learning rate is too low"
