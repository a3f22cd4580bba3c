"""EXPORT.json: written last, faithful, and strict about what it was made from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nothing_tune.errors import UsageError
from nothing_tune.outputs import Wanted, manifest

SOURCE = {"run": "one", "path": "/runs/one", "step": 3, "digest": "abc", "base": {"name_or_path": "m"}}


def made(folder: Path, name: str, text: str, source: dict[str, object] = SOURCE) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.gguf").write_text(text, encoding="utf-8")
    manifest.add(folder, "gguf", name, source, [folder / f"{name}.gguf"], {"type": name}, 1.0)


def test_an_output_is_there_only_as_it_was_made(tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    assert manifest.read(tmp_path) is None
    made(folder, "q8_0", "eight")
    made(folder, "q4_k_m", "four")
    entry = manifest.done(folder, "q8_0", SOURCE, {"type": "q8_0"})
    assert entry
    assert entry["files"]["q8_0.gguf"]["size"] == 5
    assert manifest.done(folder, "q8_0", {**SOURCE, "digest": "other"}, {"type": "q8_0"}) is None
    assert manifest.done(folder, "q8_0", SOURCE, {"type": "other"}) is None
    assert manifest.done(folder, "f16", SOURCE, {"type": "f16"}) is None
    assert manifest.faults(folder) == []
    manifest.set_proof(folder, "q8_0", {"ok": True})
    found = manifest.read(folder)
    assert found
    assert found["outputs"]["q8_0"]["proof"] == {"ok": True}
    (folder / "q8_0.gguf").write_text("eigh", encoding="utf-8")
    assert manifest.done(folder, "q8_0", SOURCE, {"type": "q8_0"}) is None
    (folder / "q4_k_m.gguf").write_text("FOUR", encoding="utf-8")
    assert manifest.faults(folder) == [
        "q8_0.gguf has 4 bytes, not 5",
        "q4_k_m.gguf is not what was written: its sha256 differs",
    ]
    (folder / "q8_0.gguf").unlink()
    assert manifest.faults(folder)[0] == "q8_0.gguf is gone"


def test_outputs_of_other_weights_are_dropped(tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    made(folder, "q8_0", "eight")
    made(folder, "q4_k_m", "four", {**SOURCE, "step": 4})
    found = manifest.read(folder)
    assert found
    assert list(found["outputs"]) == ["q4_k_m"]


def test_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        manifest.faults(tmp_path)
    assert error.value.problems[0].what == f"{tmp_path} holds no export: it has no EXPORT.json"
    (tmp_path / manifest.NAME).write_text('{"outputs": 3}', encoding="utf-8")
    with pytest.raises(UsageError, match="is damaged"):
        manifest.read(tmp_path)
    (tmp_path / manifest.NAME).write_text(json.dumps({"schema": 2, "outputs": {}}), encoding="utf-8")
    with pytest.raises(UsageError, match="was written by a newer nothing-tune"):
        manifest.read(tmp_path)


def test_what_is_wanted_comes_back_from_json() -> None:
    wanted = Wanted(merged=True, gguf=("q8_0",), push="me/it")
    assert Wanted.from_json(json.loads(json.dumps({**wanted.to_json(), "later": 1}))) == wanted
    assert wanted
    assert not Wanted(private=False, prove=False, system="x")
