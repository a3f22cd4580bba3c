"""Which weights an export starts from, and the base they are merged into: what is there, and what is refused with a cure."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from nothing_tune.artifacts import Run, read_json, write_json
from nothing_tune.engine.export import adapter, base
from nothing_tune.engine.export.source import source
from nothing_tune.errors import StorageError, UsageError
from nothing_tune.plan.model import Plan
from tests.engine import exports
from tests.engine.merging import Heard, adapted, copied, kl, log_probs


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A LoRA run of a Llama in three files."""
    folder = tmp_path_factory.mktemp("source")
    return exports.trained("lora", exports.model("llama", folder / "base", shards=3), folder / "runs")


@pytest.fixture
def copy(lora: Run, tmp_path: Path) -> Run:
    """The same with its base, to be damaged."""
    return copied(lora, Path(lora.plan()["model"]["name_or_path"]), tmp_path)


def test_a_torn_file_of_the_base_is_told_before_anything_is_written(copy: Run, tmp_path: Path) -> None:
    found = source(copy, "handed-over")
    adapter.make(found, Heard())
    path = sorted((tmp_path / "base").glob("*.safetensors"))[1]
    size = path.stat().st_size
    os.truncate(path, size - 100)
    with pytest.raises(StorageError) as caught:
        base.find(found.plan)
    assert caught.value.problems[0].what == f"{path} is damaged: it has {size - 100:,} bytes instead of {size:,}"
    os.truncate(path, 4)
    with pytest.raises(StorageError, match="is cut off or no safetensors file: it has 4 bytes"):
        base.find(found.plan)
    path.unlink()
    with pytest.raises(UsageError, match=f"the base model is not whole: {path.name} is not in"):
        base.find(found.plan)


def test_bases_that_nothing_can_be_merged_into_are_refused_with_a_cure(copy: Run, tmp_path: Path) -> None:
    found, folder = source(copy, "handed-over"), tmp_path / "base"
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, "quantization_config": {"quant_method": "bitsandbytes"}})
    with pytest.raises(
        UsageError, match=r"the base model is quantised itself.*config.json names bitsandbytes"
    ) as caught:
        base.find(found.plan)
    assert "16-bit repository" in caught.value.problems[0].hint
    write_json(folder / "config.json", config)
    (folder / "README.md").write_text("---\nlanguage: it\nlicense: apache-2.0\n---\n# A model\nlicense: none\n")
    ready = base.find(found.plan)
    assert (ready.dtype, ready.licence, ready.revision) == ("float32", "apache-2.0", "")
    for path in [*folder.glob("*.safetensors"), folder / base.INDEX]:
        path.unlink()
    with pytest.raises(UsageError, match="there are no safetensors weights in"):
        base.find(found.plan)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UsageError, match=r"are a pickle \(pytorch_model.bin\)"):
        base.find(found.plan)
    shutil.rmtree(folder)
    with pytest.raises(UsageError, match=f"the base model is gone: looked for {folder}"):
        base.find(found.plan)
    hub = Plan.from_json({**found.plan.to_json(), "model": {**found.plan.model, "name_or_path": "nobody/nothing"}})
    with pytest.raises(UsageError, match="model nobody/nothing is not in the local cache"):
        base.find(hub)


def test_any_committed_step_can_be_exported_and_nothing_else(copy: Run) -> None:
    steps = {which: source(copy, which) for which in ("handed-over", "last", "best", "2", "4")}
    assert {k: (s.step, str(s.weights.relative_to(copy.path))) for k, s in steps.items() if k != "best"} == {
        "handed-over": (6, "adapter"),
        "last": (6, "checkpoints/checkpoint-6"),
        "2": (2, "checkpoints/checkpoint-2"),
        "4": (4, "checkpoints/checkpoint-4"),
    }
    best = min((r for r in read_json(steps["last"].weights / "trainer_state.json")["log_history"] if "eval_loss" in r),
               key=lambda r: r["eval_loss"])  # fmt: skip
    assert steps["best"].step == best["step"]
    assert len({s.facts["digest"] for s in (steps["2"], steps["4"], steps["last"])}) == 3
    assert len({s.facts["base"]["fingerprint"] for s in steps.values()}) == 1
    assert steps["2"].folder == copy.path / "exports" / "step-2"
    for which, words in (("3", "keeps no checkpoint of step 3"), ("newest", "'newest' is no checkpoint")):
        with pytest.raises(UsageError, match=words) as caught:
            source(copy, which)
        assert "its checkpoints: 2, 4, 6" in caught.value.problems[0].hint
    with open(copy.checkpoints / "checkpoint-4" / "adapter_model.safetensors", "r+b") as handle:
        handle.seek(2000)
        handle.write(b"torn")
    with pytest.raises(
        StorageError, match=r"checkpoint-4 of run run is damaged: adapter_model.safetensors is not what was written"
    ):
        source(copy, "4")
    shutil.rmtree(copy.adapter)
    with pytest.raises(UsageError, match="has handed nothing over yet") as caught:
        source(copy, "handed-over")
    assert "its checkpoints: 2, 4, 6" in caught.value.problems[0].hint


def test_a_pissa_checkpoint_is_exported_as_plain_lora(tmp_path: Path) -> None:
    model = exports.model("llama", tmp_path / "base")
    run = exports.trained("pissa", model, tmp_path / "runs")
    ends = []
    for which in ("handed-over", "last"):
        found = source(run, which, tmp_path / which)
        folder = adapter.make(found, Heard())
        settings = json.loads((folder / "adapter_config.json").read_text())
        assert (settings["init_lora_weights"], settings["r"]) == (True, 2 * exports.LORA["r"])
        assert settings["base_model_name_or_path"] == str(model)
        ends.append(log_probs(adapted(model, folder)))
    assert abs(kl(*ends)) < 1e-9
    (run.path / "start.safetensors").unlink()
    with pytest.raises(UsageError, match=r"cannot be made plain: start.safetensors, which it started from, is gone"):
        adapter.make(source(run, "last", tmp_path / "gone"), Heard())
    assert not (tmp_path / "gone" / "adapter").exists()
