"""No secret reaches a file of the run, and no pickle that may run programs is read."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nothing_tune import trackers
from nothing_tune.artifacts import Run, append_event, write_json
from nothing_tune.artifacts.redact import MASK, Redacted, redact, redact_all
from nothing_tune.engine import chat, failures, pickles
from nothing_tune.engine.progress import Progress
from nothing_tune.errors import UsageError
from tests.engine.support import MakeRun, events, train
from tests.engine.test_resume import stop_at

ROOT = Path(__file__).parents[2]
CANARIES = {
    "HF_TOKEN": "hf_canaryAAAAAAAAAAAAAAAAAAAAAAAA",
    "HUGGING_FACE_HUB_TOKEN": "hf_canaryBBBBBBBBBBBBBBBBBBBBBBBB",
    "WANDB_API_KEY": "canary" + "c" * 34,
    "GITHUB_TOKEN": "ghp_canaryDDDDDDDDDDDDDDDDDDDDDDDDDDDDDD",
    "AWS_SECRET_ACCESS_KEY": "canary/EEEE+EEEEEEEEEEE",
    "DB_PASSWORD": "canary F F F",
}


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    return dict(CANARIES)


def files_with(folder: Path, words: list[str]) -> list[str]:
    """Files below `folder` that hold one of the words, as they are or as JSON writes them, and in their names."""
    forms = [form.encode() for w in words for form in {w, json.dumps(w)[1:-1]}]
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if any(f in str(path.relative_to(folder)).encode() for f in forms)
        or (path.is_file() and any(f in path.read_bytes() for f in forms))
    ]


@pytest.mark.parametrize(
    "tracking", [{"tracker": "tensorboard"}, {"tracker": "wandb", "project": "p", "mode": "offline"}]
)
def test_no_file_of_a_run_holds_a_secret(
    tracking: dict[str, Any],
    make_run: MakeRun,
    rows_file: Path,
    tmp_path: Path,
    canaries: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "canary-GGGG-place"
    place.mkdir()
    shutil.copy(rows_file, place / "rows.jsonl")
    monkeypatch.setenv("CANARY", str(place))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    source = "${oc.env:CANARY}/rows.jsonl"
    run = make_run(
        **{"data.train": source, "tracking": tracking, "values": {"name": "tiny", "data": {"train": source}}},
    )
    assert "canary" not in json.dumps(trackers.config_of(run.plan()))
    with monkeypatch.context() as patch:
        stop_at(3, patch, signal.SIGTERM)
        assert train(run)["state"] == "preempted"
    with open(run.path / "engine.log", "wb") as log:
        second = subprocess.run(
            [sys.executable, "-m", "nothing_tune.engine.worker", str(run.path)],
            env={**os.environ, "TUNE_ATTEMPT": "2"},
            cwd=ROOT,
            stdout=log,
            stderr=log,
            check=False,
        )
    assert second.returncode == 0, (run.path / "engine.log").read_text()
    assert list((run.path / "tracking").rglob("*tfevents*" if tracking["tracker"] == "tensorboard" else "*.wandb"))
    assert events(run, "resume")
    assert list(run.checkpoints.rglob("training_args.bin")) == []
    assert files_with(run.path, [*canaries.values(), str(place), place.name]) == []


def test_an_exception_that_quotes_a_secret_is_written_without_it(
    make_run: MakeRun, canaries: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()

    def on_step_end(self: Progress, *_: Any, **__: Any) -> None:
        self.journal.warn(f"the hub refused {canaries['HF_TOKEN']}", "key: AKIAABCDEFGHIJKLMNOP")
        raise RuntimeError(f"401 for https://me:{canaries['WANDB_API_KEY']}@host with {canaries['DB_PASSWORD']}")

    monkeypatch.setattr(Progress, "on_step_end", on_step_end)
    result = train(run)
    assert result["error"]["problems"][0]["what"] == f"RuntimeError: 401 for https://{MASK}@host with {MASK}"
    [warning] = events(run, "warning")
    assert (warning["what"], warning["hint"]) == (f"the hub refused {MASK}", f"key: {MASK}")
    assert files_with(run.path, [*canaries.values(), "AKIAABCDEFGHIJKLMNOP"]) == []


SHAPES = [
    ("hf_abcdefghijklmnopqrstuvwxyz0123456789", MASK),
    ("Bearer eyJhbGciOi.JIUzI1NiIsInR5", f"Bearer {MASK}"),
    ("sk-proj-abcdefghijklmnopqrstuv", MASK),
    ("ghp_" + "a" * 36, MASK),
    ("https://user:pass-word@host/path", f"https://{MASK}@host/path"),
    ("http://localhost:8080/a@b", "http://localhost:8080/a@b"),
    ("wandb key " + "0a" * 20, f"wandb {MASK}"),
    ("revision " + "0a" * 20, "revision " + "0a" * 20),
    ("sha256 " + "0a" * 32, "sha256 " + "0a" * 32),
    ("xoxb-123456789012", MASK),
    ("a risk-free-sounding-text-of-many-words", "a risk-free-sounding-text-of-many-words"),
    ("checkpoints/checkpoint-100", "checkpoints/checkpoint-100"),
]


@pytest.mark.parametrize(("text", "shown"), SHAPES)
def test_what_looks_like_a_secret(text: str, shown: str) -> None:
    assert redact(text, {}) == shown


def test_what_the_environment_calls_a_secret() -> None:
    env = {
        "MY_TOKEN": "first-secret",
        "api_key": "first-secret-and-more",
        "SHORT_KEY": "abc",
        "MONKEY_NAME": "not-a-secret",
        "SSH_PRIVATE_KEY": "begin-line\nmiddle-line\nend-line-x\n",
    }
    assert redact("first-secret first-secret-and-more abc not-a-secret", env) == f"{MASK} {MASK} abc not-a-secret"
    assert redact("only the middle-line", env) == f"only the {MASK}"
    event = {"type": "first-secret", "path": "x/first-secret", "what": ["first-secret", 1, None, {"a": "first-secret"}]}
    assert redact_all(event, env) == {**event, "what": [MASK, 1, None, {"a": MASK}]}


def test_events_results_and_the_log_are_written_without_secrets(
    tmp_path: Path, canaries: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = canaries["DB_PASSWORD"]
    append_event(tmp_path / "events.jsonl", {"type": "warning", "what": secret, "step": 1, "loss": float("nan")})
    assert json.loads((tmp_path / "events.jsonl").read_text()) == {
        "type": "warning",
        "what": MASK,
        "step": 1,
        "loss": None,
    }
    _, problem = failures.report(UsageError(f"cannot use {secret}", hint=f"not {secret}"))
    assert [problem["problems"][0][k] for k in ("what", "hint")] == [f"cannot use {MASK}", f"not {MASK}"]
    stream = io.StringIO()
    log = Redacted(stream)
    print(f"a traceback with {secret}", file=log)
    log.writelines([secret, "\n"])
    log.flush()
    assert stream.getvalue() == f"a traceback with {MASK}\n{MASK}\n"


# Pickles


def test_a_resume_reads_no_pickle_that_may_run_programs(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    run = make_run()
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        train(run)
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    original, calls = torch.load, []

    def load(*args: Any, **kwargs: Any) -> Any:
        calls.append((str(args[0]) if args else "", kwargs.get("weights_only")))
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    monkeypatch.setenv("TUNE_ATTEMPT", "2")
    assert train(run)["state"] == "done"
    assert {Path(name).name for name, _ in calls} >= {"optimizer.pt", "scheduler.pt"}
    assert [call for call in calls if call[1] is False] == []
    assert not any("training_args" in name for name, _ in calls)


def unsafe(source: str) -> list[str]:
    """What in a module reads pickles without care, one line each."""
    out = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            out += [
                f"{node.lineno}: {n}" for n in names if n.split(".")[0] in ("pickle", "dill", "joblib", "cloudpickle")
            ]
        if isinstance(node, ast.Call):
            given = {k.arg: k.value for k in node.keywords}
            careful = isinstance(given.get("weights_only"), ast.Constant) and given["weights_only"].value is True  # type: ignore[union-attr]
            if ("weights_only" in given and not careful) or (ast.unparse(node.func) == "torch.load" and not careful):
                out.append(f"{node.lineno}: {ast.unparse(node)}")
    return out


@pytest.mark.parametrize("path", sorted((ROOT / "nothing_tune").rglob("*.py")), ids=lambda p: p.name)
def test_our_own_code_reads_no_pickle(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


def test_careless_code_is_seen() -> None:
    for source in ("import pickle", "torch.load(f)", "torch.load(f, weights_only=False)", "load(weights_only=safe)"):
        assert len(unsafe(source)) == 1
    assert unsafe("torch.load(f, weights_only=True)") == []


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_weights_as_a_pickle_are_refused(name: str, make_run: MakeRun) -> None:
    run = Run(make_run().path)
    run.adapter.mkdir()
    write_json(run.adapter / "tokenizer_config.json", {})
    pickles.refuse(run.adapter)
    (run.adapter / name).write_bytes(b"\x80\x04")
    with pytest.raises(UsageError) as caught:
        chat.load(run, base=False)
    [problem] = caught.value.problems
    assert problem.what == (
        f"{run.adapter / name} is a pickle, which may run programs when it is read: only safetensors are loaded"
    )
    assert "convert it" in problem.hint
