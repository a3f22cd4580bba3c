"""`tune export`: what is asked for, what is ahead, and what is refused before the engine starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import checkpoint, write_json
from nothing_tune.cli.export import following, making
from nothing_tune.cli.jobs import Job
from nothing_tune.errors import RunError, UsageError
from nothing_tune.outputs import manifest
from nothing_tune.recipe.library import base_model
from nothing_tune.run import export

SOURCE = {"run": "demo", "step": 20}


@pytest.fixture
def done(demo: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run of the shipped model that has handed over an adapter."""
    plan = demo.run.plan()
    plan["model"]["name_or_path"] = str(base_model("nano"))
    write_json(demo.run.path / "plan.json", plan)
    demo.run.adapter.mkdir()
    (demo.run.adapter / "adapter_model.safetensors").write_bytes(b"x" * 4096)
    (demo.run.adapter / "adapter_config.json").write_text("{}")
    checkpoint.commit(demo.run.adapter, step=20, attempt=1, run=demo.run.id)
    demo.result(step=20, adapter="adapter")
    monkeypatch.setattr(export, "_free", lambda folder: 10 * 2**30)
    monkeypatch.setattr(export, "find_spec", lambda name: object())
    return demo


def test_what_is_ahead(tune: Callable[..., Any], done: Any) -> None:
    said = tune("export", "latest", "--merge", "--gguf", "q8_0,Q4_K_M", "--dry-run")
    assert said.code == 0, said.err
    assert said.out == (
        f"{done.run.id}  dry run: nothing was made\n"
        "weights       what the run handed over\n"
        f"to            runs/{done.run.id}/exports/step-20\n"
        "adapter       about 4.0 KiB\n"
        "merged        about 5.8 MiB\n"
        "bf16          about 5.8 MiB, on the way; removed at the end\n"
        "q8_0          about 3.1 MiB\n"
        "q4_k_m        about 1.9 MiB\n"
        "disk          at most 80.6 MiB while it works; 10.0 GiB are free\n\n"
    )
    assert not (done.run.path / "exports").exists()
    data = tune("export", "latest", "--gguf", "f16", "--to", "elsewhere", "--dry-run", "--json").json()
    assert [(s["output"], s["kept"]) for s in data["sizes"]] == [("adapter", True), ("merged", False), ("f16", True)]
    assert data["folder"].endswith("/elsewhere")


def test_without_options_the_recipe_decides(tune: Callable[..., Any], done: Any) -> None:
    def outputs(*words: str) -> list[str]:
        return [s["output"] for s in tune("export", "latest", "--dry-run", "--json", *words).json()["sizes"]]

    assert outputs() == ["adapter"]
    plan = done.run.plan()
    plan["values"] = {**(plan.get("values") or {}), "export": {"merge": True, "gguf": ["q8_0"]}}
    write_json(done.run.path / "plan.json", plan)
    assert outputs() == ["adapter", "merged", "bf16", "q8_0"]
    assert outputs("--adapter") == ["adapter"]
    assert outputs("--ollama") == ["adapter", "merged", "bf16", "q4_k_m"]
    assert outputs("--gguf", "f16", "q6_k") == ["adapter", "merged", "bf16", "f16", "q6_k"]


def test_what_is_refused(tune: Callable[..., Any], done: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cases = (
        (("export",), 2, "error: which run? none is named\n  hint: tune export latest\n"),
        (("export", "latest", "other"), 2, "error: two runs are named: latest and other\n  hint: tune export latest\n"),
        (("export", "latest", "q8_0"), 2, "error: q8_0 is a GGUF type\n  hint: --gguf q8_0\n"),
        (
            ("export", "latest", "--gguf", "q4_k_n,iq1_s"),
            2,
            "error: there is no GGUF type q4_k_n\n  hint: near it: q4_k_s, q4_k_m, q5_k_s\n"
            "error: the GGUF type iq1_s cannot be made here: llama.cpp makes it only with an importance matrix, measured on text with "
            "llama-imatrix, which this tool does not make\n  hint: near it: iq3_s, iq4_xs, iq3_m\n",
        ),
        (
            ("export", "latest", "--checkpoint", "newest"),
            2,
            "error: --checkpoint: 'newest' is no checkpoint\n  hint: best, last or the number of a step\n",
        ),
        (
            ("export", "--verify", "latest"),
            2,
            f"error: run {done.run.id} has no exports\n  hint: tune export {done.run.id} makes one\n",
        ),
        (
            ("export", "--verify", str(tmp_path)),
            2,
            f"error: {tmp_path} holds no export: it has no EXPORT.json\n  hint: tune export RUN_ID makes one\n",
        ),
    )
    for words, code, text in cases:
        said = tune(*words)
        assert (said.code, said.err) == (code, text), words
    monkeypatch.setattr(export, "_free", lambda folder: 2**20)
    said = tune("export", "latest", "--merge")
    assert said.code == 74
    assert said.err == (
        f"error: the export needs 70 MiB in {done.run.path}/exports/step-20, and 1 MiB are free\n"
        "  hint: --to names a folder on another disk; fewer outputs need less\n"
    )
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    said = tune("export", "latest", "--gguf", "q8_0")
    assert said.err == (
        "error: GGUF needs llama-cpp-python, which is not installed\n"
        "  hint: pip install 'nothing-tune[gguf]', in a clone make extras: it builds llama.cpp, which takes minutes\n"
    )


def test_a_run_that_trained_the_whole_model_has_no_adapter(tune: Callable[..., Any], done: Any) -> None:
    plan = done.run.plan()
    write_json(done.run.path / "plan.json", {**plan, "peft": None})
    said = tune("export", "latest", "--adapter", "--dry-run")
    assert (
        said.err
        == f"error: run {done.run.id} trained the whole model: it has no adapter\n  hint: --merge exports the model\n"
    )
    assert [s["output"] for s in tune("export", "latest", "--dry-run", "--json").json()["sizes"]] == ["merged"]


def test_the_exit_code_says_what_was_proved(capsys: pytest.CaptureFixture[str]) -> None:
    sound = {"name": "kl", "ok": True, "what": "it answers as the run does"}
    wrong = {"name": "kl", "ok": False, "what": "it answers otherwise: KL 1.3, at most 0.001"}
    unknown = {"name": "generation", "ok": None, "what": "the run does not end its answers"}

    def output(*checks: dict[str, Any]) -> dict[str, Any]:
        return {"output": "q8_0", "proof": {"ok": all(c["ok"] is not False for c in checks), "checks": list(checks)}}

    assert making.verdict([output(sound)]) is True
    assert making.verdict([output(sound, unknown)]) is None
    mild = {
        "name": "stops",
        "ok": None,
        "mild": True,
        "what": "cannot tell: the run itself does not end its answers soon",
    }
    assert making.verdict([output(sound, mild)]) is True
    assert making.verdict([output(mild, unknown)]) is None
    assert making.verdict([output(sound), {"output": "merged", "proof": None}]) is None
    assert making.verdict([output(sound), output(sound, wrong)]) is False
    assert [p.what for p in making.failures([output(wrong)])] == ["q8_0: it answers otherwise: KL 1.3, at most 0.001"]
    words = making.proof_words({"kl": 3.14e-5, "top1": 0.998, "effect": 0.81, "checks": [sound, unknown]})
    assert words == ("KL 3.1e-05, top-1 99.8 %, 1 of 2 checks, cannot tell: generation")
    assert making.proof_words({"checks": [sound, mild]}) == "1 of 2 checks, not looked at: stops"


def test_what_a_proof_warns_of_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    warning = {
        "what": "the answers lie KL 0.004 from the merged model's, which is much for q8_0",
        "hint": "expected below 0.002",
    }
    checks = [{"name": "stops", "ok": None, "mild": True, "what": "cannot tell: it does not end"}]
    proof = {"ok": True, "checks": checks, "warnings": [warning]}
    page = making.Page(None, json=False)
    page.show([{"type": "output", "output": "q8_0", "bytes": 2048, "seconds": 3.0, "proof": proof}])
    page.close()
    said = capsys.readouterr()
    assert said.out + said.err == (
        "ok  q8_0         2.0 KiB    3 s  0 of 1 checks, not looked at: stops\n"
        "warning: q8_0: the answers lie KL 0.004 from the merged model's, which is much for q8_0\n"
        "  hint: expected below 0.002\n"
        "\n"
        "proved        what was exported answers as what was trained\n"
    )


class Ended:
    """An engine that has ended."""

    def poll(self) -> int | None:
        return 1


class Beginning:
    """An engine that begins its export when it is looked at for the second time."""

    def __init__(self, events: Path) -> None:
        self.events, self.looks = events, 0

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks == 2:
            self.events.write_text('{"type": "end", "exit_code": 0}\n')
        return None


def test_what_an_earlier_export_said_is_passed_over(done: Any) -> None:
    events = done.run.path / "exports" / "events.jsonl"
    events.parent.mkdir()
    events.write_text('{"type": "end", "exit_code": 74}\n')
    os.utime(events, (1, 1))
    engine = Beginning(events)
    assert following.follow(done.run, engine, quiet=True)[0] == 0  # type: ignore[arg-type]
    assert engine.looks == 2


def test_an_export_that_died_is_never_called_proved(tune: Callable[..., Any], done: Any) -> None:
    folder = done.run.path / "exports"
    folder.mkdir()
    assert making.verdict([]) is None
    for text, what in (
        ('{"type": "end", "exit_code": 1}\n', "the export failed with exit code 1"),
        ("", "the export ended without a word"),
    ):
        (folder / "events.jsonl").write_text(text)
        with pytest.raises(RunError) as error:
            following.follow(done.run, Ended(), quiet=True)  # type: ignore[arg-type]
        assert error.value.problems[0].what == what
    (folder / "events.jsonl").write_text('{"type": "error", "what": "the base is gone", "exit_code": 2}\n')
    with pytest.raises(UsageError, match="the base is gone"):
        following.follow(done.run, Ended(), quiet=True)  # type: ignore[arg-type]
    write_json(folder / "result.json", {"exit_code": 2, "time": 5.0})
    said = f"the export after the training failed (exit code 2): tune export {done.run.id} tries again"
    assert said in tune("runs", "show", "latest").out


def test_a_crash_of_a_library_is_told_with_its_signal() -> None:
    crash = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"]
    process = subprocess.Popen(crash, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with Job(process, "the export", "the log") as job, pytest.raises(RunError) as error:
        job.read()
    assert error.value.problems[0].what == f"the export ended by {signal.SIGSEGV.name}"


def test_runs_show_lists_what_was_exported(tune: Callable[..., Any], done: Any) -> None:
    folder = done.run.path / "exports" / "step-20" / "gguf"
    folder.mkdir(parents=True)
    (folder / "demo-q8_0.gguf").write_bytes(b"x" * 3000)
    manifest.add(folder, "gguf", "q8_0", SOURCE, [folder / "demo-q8_0.gguf"], {"type": "q8_0"}, 1.0)
    said = tune("runs", "show", "latest").out
    assert "  q8_0      20  2.9 KiB  not proved  exports/step-20/gguf/\n" in said
    manifest.set_proof(folder, "q8_0", {"ok": True, "checks": []})
    assert "  q8_0      20  2.9 KiB  proved  exports/step-20/gguf/\n" in tune("runs", "show", "latest").out
