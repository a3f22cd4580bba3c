"""What is read out of a run directory, and what of it is for everybody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run
from nothing_tune.errors import UsageError
from nothing_tune.outputs import manifest, record
from tests.outputs.runs import TOKEN, run_of


def test_a_run_as_one_record(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    made = run.path / "exports/step-60/adapter"
    made.mkdir(parents=True)
    (made / "adapter_model.safetensors").write_bytes(b"12345")
    manifest.add(made, "adapter", "adapter", {"run": run.id, "step": 60}, [made / "adapter_model.safetensors"], {}, 1.0)
    (run.path / "exports/step-60/gguf").mkdir()
    (run.path / "exports/step-60/gguf/EXPORT.json").write_text("{")
    found = record.of_run(run)
    assert (found["method"]["name"], found["base"]["hub"], found["base"]["licence"]) == ("qlora", True, "llama3.2")
    assert found["curves"]["loss"] == [
        [10, 3.5],
        [20, 3.0],
        [40, 2.0],
        [50, 1.75],
        [60, 1.5],
    ]  # 30 was done again, and is gone
    assert found["best"] == {"step": 60, "epoch": 2.0, "metric": "eval_loss", "value": 1.5}
    assert [e["step"] for e in found["evaluations_while_training"]] == [20, 60]
    assert (found["attempts"], found["duration_s"]) == (2, 3600.0)
    first, second = found["data"]["sources"]
    assert (first["shown"], first["hub"], first["bytes"], first["card"]["made_by"]) == (
        "rows.jsonl",
        False,
        3,
        "nothing-tune 0.1.0",
    )
    assert (second["shown"], second["hub"]) == ("org/rows:train", True)
    against = {row["what"]: (row["planned"], row["measured"]) for row in found["plan_against_measured"]}
    assert against == {
        "training rows": (480, 480), "optimizer steps": (60, 60), "time": (7200.0, 3600.0), "speed": (None, 10.0),
        "peak memory": (6 * 2**30, 6.5 * 2**30), "cost at modal": (1.6, 0.8),
    }  # fmt: skip
    assert [e["name"] for e in found["evaluations"]] == ["held-out"]
    [export] = found["exports"]
    assert (export["output"], export["step"], export["bytes"], export["proof"]) == ("adapter", 60, 5, None)
    assert json.loads(record.dumped(found)) == json.loads(json.dumps(found))
    told = json.dumps(record.public(found))
    assert str(tmp_path) not in told
    assert "secret-customer" not in told
    assert TOKEN not in told
    assert "password" not in told


def test_little_is_known_of_a_run_that_broke_off(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    for name in ("forecast.json", "result.json", "lock.json", "machine.json"):
        (run.path / name).write_text("{torn")
    for name in ("status.json", "events.jsonl"):
        (run.path / name).unlink()
    found = record.of_run(run)
    assert (found["curves"]["loss"], found["best"], found["versions"]["python"], found["metrics"]) == (
        [],
        None,
        None,
        {},
    )
    assert found["plan_against_measured"] == [
        {"what": "time", "planned": None, "low": None, "high": None, "measured": 3600.0, "unit": "s"}
    ]
    with pytest.raises(UsageError):
        record.of_run(Run(tmp_path))


def test_paths_are_cut_to_their_names() -> None:
    for said, kept in (
        ("/home/me/base", "base"), ("~/data/rows.jsonl", "rows.jsonl"), ("data/private/rows.jsonl", "rows.jsonl"),
        ("C:\\Users\\me\\rows.csv", "rows.csv"), ("cannot read /home/me/a.json: gone", "cannot read a.json: gone"),
        ("file:///home/me/a", "a"), ("../up/rows.jsonl", "rows.jsonl"), ("/home/me/my data/rows.jsonl", "rows.jsonl"),
        ("org/name", "org/name"), ("https://host/a/b", "https://host/a/b"), ("tokens/s", "tokens/s"), ("1/2", "1/2"),
        ("all-linear", "all-linear"), ("", ""),
    ):  # fmt: skip
        assert record.public({"x": [said]}) == {"x": [kept]}, said
    assert record.public({"path": "/home/me", "/home/me/a": 1, "n": None}) == {"a": 1, "n": None}


def test_curves_are_thinned_and_methods_named() -> None:
    curve = record.thinned([(i, i) for i in range(1000)], 5)
    assert curve == [[0, 0], [250, 250], [500, 500], [749, 749], [999, 999]]
    assert record.thinned([(1, 2.0)], 5) == [[1, 2.0]]
    for peft, quantization, name in (
        (None, None, "full"), ({"r": 8}, None, "lora"), ({"r": 8}, {"load_in_4bit": True}, "qlora"), ({"use_dora": True}, None, "dora"),
        ({"init_lora_weights": "pissa_niter_4"}, None, "pissa"), ({"use_rslora": True}, None, "rslora"),
        ({"peft_type": "VERA"}, None, "vera"),
        ({"r": 8}, {"load_in_8bit": True}, "lora-8bit"), ({"use_dora": True}, {"load_in_4bit": True}, "qdora"),
    ):  # fmt: skip
        assert record.method_of(peft, quantization) == name
