"""What a run must find again: rows, tokenizer, template, base model, versions, settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import checkpoint, read_json, write_json
from nothing_tune.engine import fingerprints
from tests.engine.support import MakeRun, events, tiny_model, tiny_tokenizer, train
from tests.engine.test_resume import stop_at


def stopped(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    run = make_run(**changes)
    with monkeypatch.context() as patch:
        stop_at(3, patch)
        assert train(run)["exit_code"] == 75
    return run


def refused(run: Any) -> list[str]:
    result = train(run)
    assert result["exit_code"] == 65, result["error"]
    assert checkpoint.fault(run.checkpoints / "checkpoint-3") is None  # nothing is lost
    return [p["what"] for p in result["error"]["problems"]]


def test_rows_count_not_how_they_are_stored() -> None:
    from datasets import Dataset

    rows = {"input_ids": [[1, 2], [3], [], [4, 5, 6]], "labels": [[-100, 2], [3], [], [4, -100, 6]]}
    data = Dataset.from_dict(rows)
    mark = fingerprints.of_rows(data)
    assert mark == fingerprints.of_rows(Dataset.from_dict({k: rows[k] for k in ("labels", "input_ids")}))
    assert mark == fingerprints.of_rows(data.select([2, 3, 0, 1]).select([2, 3, 0, 1]))
    assert fingerprints.of_rows(None) is None
    others = [
        data.select([1, 0, 2, 3]),
        data.select([0, 1, 2]),
        Dataset.from_dict({**rows, "input_ids": [[1, 2], [3], [], [4, 5, 7]]}),
        Dataset.from_dict({"input_ids": [[1], [2, 3], [], [4, 5, 6]], "labels": rows["labels"]}),
        Dataset.from_dict({"input_ids": rows["input_ids"]}),
        Dataset.from_dict({**rows, "seq_lengths": [[2], [1], [0], [1, 2]]}),
    ]
    assert len({mark, *map(fingerprints.of_rows, others)}) == 7
    assert mark == fingerprints.of_rows(Dataset.from_dict({**rows, "line": [1, 2, 3, 4]}))  # where a row stood


def test_a_tokenizer_that_was_used_is_the_same() -> None:
    tok = tiny_tokenizer()
    mark = fingerprints.of_tokenizer(tok)
    tok(["alpha", "alpha beta gamma"], padding=True, truncation=True, max_length=4)
    assert fingerprints.of_tokenizer(tok) == mark
    tok.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    assert fingerprints.of_tokenizer(tok) != mark


def test_other_rows_are_refused(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, rows_file: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text(rows_file.read_text())
    run = stopped(make_run, monkeypatch, **{"data.train": str(mine)})
    lines = mine.read_text().splitlines()
    mine.write_text("\n".join(lines[:-4]) + "\n")
    what = refused(run)
    marks = r"[0-9a-f]{8} then, (\d+ rows )?[0-9a-f]{8} now"
    assert re.fullmatch(f"the training rows are not those that the run was started with: 32 rows {marks}", what[0])
    assert all(
        re.fullmatch(f"the evaluation rows are not those that the run was started with: {marks}", w) for w in what[1:]
    )
    assert "29 rows" in what[0]
    assert run.state() == "stopped"
    mine.write_text("\n\n".join(lines) + "\n\n")  # the same rows in another file
    assert train(run)["state"] == "done"


def test_another_template_tokenizer_or_base_is_refused(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = tiny_model(tmp_path / "base")
    run = stopped(make_run, monkeypatch, **{"model.name_or_path": str(base)})
    template = base / "chat_template.jinja"
    before = template.read_text()
    template.write_text(before.replace("<|im_start|>", "<|im_start|> "))
    assert any(w.startswith("the chat template is not the one that the run was started with: ") for w in refused(run))
    template.write_text(before)
    core = json.loads((base / "tokenizer.json").read_text())
    (base / "tokenizer.json").write_text(json.dumps({**core, "normalizer": {"type": "Lowercase"}}))
    assert any(w.startswith("the tokenizer is not the one that the run was started with: ") for w in refused(run))
    (base / "tokenizer.json").write_text(json.dumps(core))

    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    other = {k: (v + 1e-3 if "down_proj" in k else v) for k, v in weights.items()}
    save_file(other, base / "model.safetensors", metadata={"format": "pt"})
    assert [w.split(":")[0] for w in refused(run)] == ["the base model is not the one that the run was started with"]
    assert torch.is_tensor(next(iter(other.values())))


def test_settings_that_may_not_change_are_named_with_both_values(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"name": "tiny", "training": {"learning_rate": 1e-3, "logging_steps": 1}}
    run = stopped(make_run, monkeypatch, values=values)
    plan = run.plan()
    plan["values"]["training"] = {"learning_rate": 1e-4, "logging_steps": 5}
    write_json(run.path / "plan.json", plan)
    assert refused(run) == ["training.learning_rate was 0.001 and would be 0.0001"]


@pytest.mark.parametrize(
    ("package", "was", "outcome"),
    [
        ("trl", "1.16.9", "warned"),
        ("trl", "1.15.0", "refused"),
        ("trl", "1.15.0", "allowed"),
        ("torch", "2.13.0+cu999", "warned"),
        ("nothing-tune", "0.0.1", "warned"),
    ],
)
def test_other_versions(
    package: str, was: str, outcome: str, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.versions()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "versions", lambda: {**real, package: was})
        run = stopped(make_run, monkeypatch)
    if outcome == "allowed":
        monkeypatch.setenv(fingerprints.DRIFT, "1")
    if outcome == "refused":
        assert refused(run) == [f"{package} was {was} and is {real[package]}"]
        return
    assert train(run)["state"] == "done"
    assert f"{package} was {was} and is {real[package]}" in [e["what"] for e in events(run, "warning")]


def test_a_checkpoint_names_all_it_depends_on(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped(make_run, monkeypatch)
    manifest = read_json(run.checkpoints / "checkpoint-3" / checkpoint.COMMIT)
    assert set(manifest["fingerprints"]) == {
        "rows",
        "train_tokens",
        "eval_tokens",
        "tokenizer",
        "chat_template",
        "model",
    }
    assert manifest["settings"]["plan.training.learning_rate"] == 1e-3
    assert manifest["settings"]["plan.peft.r"] == 4
    assert not [k for k in manifest["settings"] if "name_or_path" in k or "save_steps" in k or "batch_size" in k]
    assert (manifest["run"], manifest["step"], manifest["world_size"], manifest["schema"]) == ("run-0001", 3, 1, 2)


def test_a_damaged_plan_is_noticed(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stopped(make_run, monkeypatch)
    plan = run.plan()
    plan["training"]["learning_rate"] = 3e-3
    plan["training"]["save_steps"] = 3
    write_json(run.path / "plan.json", plan)
    assert refused(run) == ["plan.training.learning_rate was 0.001 and is 0.003, though the recipe is the same"]
