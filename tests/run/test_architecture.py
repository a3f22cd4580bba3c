"""Where a base model's config.json is had from, and that no other model's facts are taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nothing_tune.plan import Plan, make_plan
from nothing_tune.recipe import load_recipe
from nothing_tune.run.architecture import config_of


def plan(*overrides: str) -> Plan:
    return make_plan(load_recipe("nothing-gpt", gpu="l4", overrides=overrides))


@pytest.fixture(autouse=True)
def _no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_facts_of_the_library() -> None:
    config, source = config_of(plan())
    assert config is not None
    assert (config["model_type"], config["num_hidden_layers"], config["tie_word_embeddings"]) == ("llama", 28, True)
    assert source == "facts of the library, as of 2026-11-20"


def test_facts_are_not_those_of_another_model() -> None:
    assert config_of(plan("model.name_or_path=org/other")) == (
        None,
        "org/other is not in the local cache, and huggingface.co cannot be reached",
    )
    assert config_of(plan("model.name_or_path=org/other"), fetch=False) == (
        None,
        "there is no config.json of org/other on this machine",
    )


def test_offline_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert config_of(plan("model.name_or_path=org/other"))[1] == (
        "org/other is not in the local cache, and HF_HUB_OFFLINE is set"
    )


def test_folder_and_cache_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert config_of(plan(f"model.name_or_path={folder}")) == (None, f"{folder} holds no config.json")
    (folder / "config.json").write_text("{")
    assert config_of(plan(f"model.name_or_path={folder}")) == (None, f"{folder / 'config.json'} cannot be read")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert config_of(plan(f"model.name_or_path={folder}")) == ({"model_type": "qwen2"}, "the model's folder")
    cached = tmp_path / "hub/hub/models--meta-llama--Llama-3.2-3B-Instruct/snapshots/abc"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    assert config_of(plan()) == ({"model_type": "llama", "hidden_size": 8}, "the local cache")
