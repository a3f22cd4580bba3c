"""Exports that were broken on purpose: each fault is found by the check that is there for it, and told in its words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.artifacts import Run
from nothing_tune.cli.export import making
from nothing_tune.engine.export import adapter, base, merge, proof, source
from nothing_tune.engine.export.proof import models, outputs
from nothing_tune.engine.export.source import Source
from nothing_tune.errors import ProofFailed
from nothing_tune.outputs import manifest
from tests.engine import exports

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def silent(**_: Any) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Export:
    """A sound export, and what it is compared with."""

    run: Run
    base: Path
    source: Source
    ref: proof.Reference
    near: outputs.Around

    @property
    def merged(self) -> Path:
        return self.source.folder / "merged"


def made(run: Run, base_dir: Path) -> Export:
    """All of a run's outputs but GGUF, proved."""
    src = source.source(run, "handed-over", None)
    adapter.make(src, silent)
    found = base.find(src.plan)
    merge.make(src, found, src.folder / "merged", silent)
    for kind in ("adapter", "merged"):
        files = [p for p in (src.folder / kind).rglob("*") if p.is_file()]
        manifest.add(src.folder / kind, kind, kind, src.facts, files, {}, 1.0)
    return Export(run, base_dir, src, proof.reference(src, found, silent), outputs.around(src))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A LoRA run of a small Llama in bfloat16 that learned to stop, exported."""
    tmp = tmp_path_factory.mktemp("faults")
    folder = exports.model("llama", tmp / "base", dtype="bfloat16")
    return made(exports.trained("lora", folder, tmp / "runs", **{"training.max_steps": 30}), folder)


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def save(folder: Path, found: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


def settings(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def skipped(folder: Path, export: Export) -> None:
    shutil.copyfile(export.base / "model.safetensors", folder / "model.safetensors")


def one_layer_missing(folder: Path, export: Export) -> None:
    name = "model.layers.1.self_attn.v_proj.weight"
    save(folder, {**tensors(folder), name: tensors(export.base)[name]})


def merged_twice(folder: Path, export: Export) -> None:
    before, after = tensors(export.base), tensors(folder)
    save(folder, {n: (2 * t.float() - before[n].float()).to(t.dtype) if "_proj" in n else t for n, t in after.items()})


def other_type(folder: Path, export: Export) -> None:
    import torch

    save(folder, {n: t.to(torch.float16) for n, t in tensors(folder).items()})


def another_tensor(folder: Path, export: Export) -> None:
    name = "model.norm.weight"
    found = tensors(folder)
    save(folder, {**found, name: found[name] * 1.5})


def not_finite(folder: Path, export: Export) -> None:
    name = "model.norm.weight"
    found = tensors(folder)
    found[name][3] = float("nan")
    save(folder, found)


def cut_off(folder: Path, export: Export) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def wrong_template(folder: Path, export: Export) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|start_header_id|>", "<|start_header_id|> ", 1))


def training_template(folder: Path, export: Export) -> None:
    path = folder / "chat_template.jinja"
    text = path.read_text()
    path.write_text("{% if false %}{% generation %}{% endgeneration %}{% endif %}" + text)


def bos_doubled(folder: Path, export: Export) -> None:
    path = folder / "tokenizer.json"
    read = json.loads(path.read_text())
    single = read["post_processor"]["single"]
    read["post_processor"]["single"] = [single[0], *single]
    path.write_text(json.dumps(read))


def pad_as_end(folder: Path, export: Export) -> None:
    settings(folder, "generation_config.json", eos_token_id=export.near.right.pad_token_id)


def pad_among_ends(folder: Path, export: Export) -> None:
    read = json.loads((folder / "generation_config.json").read_text())
    settings(folder, "generation_config.json", eos_token_id=[*read["eos_token_id"], export.near.right.pad_token_id])


def stop_missing(folder: Path, export: Export) -> None:
    settings(folder, "generation_config.json", eos_token_id=export.near.right.eos_token_id)


def no_generation_config(folder: Path, export: Export) -> None:
    (folder / "generation_config.json").unlink()


def token_missing(folder: Path, export: Export) -> None:
    path = folder / "tokenizer.json"
    read = json.loads(path.read_text())
    merges, vocab = read["model"]["merges"], read["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    read["model"]["merges"] = [m for m in merges if "".join(m if isinstance(m, list) else m.split(" ")) != last]
    del vocab[last]
    path.write_text(json.dumps(read))


def another_eos(folder: Path, export: Export) -> None:
    settings(folder, "tokenizer_config.json", eos_token="<|finetune_right_pad_id|>")


def another_shape(folder: Path, export: Export) -> None:
    settings(folder, "config.json", rope_parameters={"rope_type": "default", "rope_theta": 500000.0}, rms_norm_eps=1e-3)


NO_END = "<|eot_id|>, which ends an answer, is not among the end tokens of generation_config.json: "
LEFT = "the merge was left out: "
MERGED: dict[str, tuple[Callable[[Path, Export], None], str, str]] = {
    "merge skipped": (
        skipped, "merged-weights",
        f"4 of 4 trained tensors are as in the base, {LEFT}model.layers.0.self_attn.q_proj.weight, ",
    ),
    "one layer not merged": (
        one_layer_missing, "merged-weights",
        f"1 of 4 trained tensors is as in the base, {LEFT}model.layers.1.self_attn.v_proj.weight",
    ),
    "merged twice": (merged_twice, "merged-weights", "4 of 4 trained tensors are not base plus adapter"),
    "wrong type": (other_type, "dtype", "the base is bfloat16, 20 tensors are float16"),
    "a tensor changed that was not trained": (
        another_tensor, "other-weights",
        "1 tensors that were not trained differ from the base: model.norm.weight",
    ),
    "not a number": (not_finite, "answers", "over 512 positions the answers lie KL inf from the run's, the limit is 0.002"),
    "truncated": (cut_off, "reload", "transformers does not load it"),
    "wrong template": (
        wrong_template, "chat-template",
        "a conversation of 2 messages is rendered otherwise than with the base's chat template",
    ),
    "training template": (
        training_template, "chat-template",
        "the chat template is that of the training, not the base's: it marks what is learned",
    ),
    "BOS doubled": (bos_doubled, "tokens", "'Hello, world!' gives other tokens than with the base's tokenizer, from token 2 on"),
    "pad as end": (pad_as_end, "stop-tokens", f"{NO_END}the padding <|finetune_right_pad_id|> alone"),
    "pad among the ends": (
        pad_among_ends, "stop-tokens",
        "the padding <|finetune_right_pad_id|> is among the end tokens of generation_config.json",
    ),
    "stop token missing": (stop_missing, "stop-tokens", f"{NO_END}<|end_of_text|>"),
    "no generation config": (no_generation_config, "stop-tokens", f"{NO_END}none"),
    "a token missing": (token_missing, "vocabulary", "the tokenizer lacks the token "),
    "another end of text": (
        another_eos, "vocabulary",
        "eos_token is <|finetune_right_pad_id|>, not <|end_of_text|> as in the base's tokenizer",
    ),
    "another architecture": (another_shape, "config", "config.json differs from the base's in rms_norm_eps"),
}  # fmt: skip
"""Fault -> how it is made in a copy of the merged model, the check that finds it, how its sentence begins."""


ALSO = {
    "merge skipped": ("differs-from-base", "it answers as the base"),
    "merged twice": ("answers", "over 512 positions the answers lie KL "),
    "stop token missing": ("stops", "it does not stop: the run ends 3 answers, it ends 0 of these"),
}
"""What else finds some of them."""


def failed(found: dict[str, Any]) -> dict[str, str]:
    """The sentences of the checks that are false, by name."""
    return {c["name"]: c["what"] for c in found["checks"] if c["ok"] is False}


def test_sound(export: Export) -> None:
    for found in (
        proof.adapter(export.source, export.ref, export.near),
        proof.merged(export.merged, export.source, export.ref, export.near),
    ):
        assert found["ok"], failed(found)
        assert not [c for c in found["checks"] if c["ok"] is None], found["checks"]


@pytest.mark.parametrize("fault", MERGED)
def test_fault_in_merged(export: Export, fault: str, tmp_path: Path) -> None:
    break_it, name, words = MERGED[fault]
    shutil.copytree(export.merged, tmp_path / "merged")
    break_it(tmp_path / "merged", export)
    found = proof.merged(tmp_path / "merged", export.source, export.ref, export.near)
    assert not found["ok"]
    for check, begins in ((name, words), *([ALSO[fault]] if fault in ALSO else [])):
        assert failed(found).get(check, "").startswith(begins), failed(found)


def test_adapter_of_another_base(export: Export, tmp_path: Path) -> None:
    """The base is replaced by another revision after the training."""
    folder = tmp_path / "base"
    shutil.copytree(export.base, folder)
    run = exports.trained("lora", folder, tmp_path / "runs")
    src = source.source(run, "handed-over", None)
    adapter.make(src, silent)
    shutil.rmtree(folder)
    exports.model("llama", folder, dtype="bfloat16", seed=1)
    found = proof.adapter(src, proof.reference(src, base.find(src.plan), silent))
    assert failed(found)["base"].startswith(
        f"{folder} is not the base that the run was trained on, or another revision of it ("
    )


def test_qlora_adapter_of_another_base(tmp_path: Path) -> None:
    """The base of a quantised run is replaced by one of the same shape: the page ends with exit code 7 and says so."""
    folder = exports.model("llama", tmp_path / "base", dtype="bfloat16")
    src = source.source(exports.trained("qlora", folder, tmp_path / "runs"), "handed-over", None)
    adapter.make(src, silent)
    sound = proof.reference(src, base.find(src.plan), silent)
    assert sound.facts["base"] == {"ok": True, "why": ""}
    shutil.rmtree(folder)
    exports.model("llama", folder, dtype="bfloat16", seed=1)
    found = proof.adapter(src, proof.reference(src, base.find(src.plan), silent))
    then = src.facts["base"]["fingerprint"]
    words = f"{folder} is not the base that the run was trained on, or another revision of it ({then[:8]} then, "
    assert failed(found)["base"].startswith(words), failed(found)
    page = making.Page(None, json=False)
    page.show([{"type": "output", "output": "adapter", "bytes": 1, "seconds": 1.0, "proof": found}])
    with pytest.raises(ProofFailed) as raised:
        page.close()
    assert raised.value.exit_code == 7
    assert raised.value.problems[0].what.startswith(f"adapter: {words}")


def test_adapter_of_another_run(export: Export, tmp_path: Path) -> None:
    """Another run's adapter in the place of this one's: of the same base, and of none that is named."""
    other = exports.trained("lora", export.base, tmp_path, **{"training.seed": 7, "training.learning_rate": 5e-2})
    folder = tmp_path / "adapter"
    shutil.copytree(export.source.adapter, folder)
    shutil.copyfile(other.adapter / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    found = proof.adapter(export.source, export.ref, export.near, folder)
    assert failed(found)["answers"].startswith("over 512 positions the answers lie KL ")
    settings(folder, "adapter_config.json", base_model_name_or_path="org/other")
    found = proof.adapter(export.source, export.ref, export.near, folder)
    assert (
        failed(found)["adapter-files"]
        == f"adapter_config.json names the base org/other, the run was trained on {export.base}"
    )


def test_verify_finds_a_truncated_file_and_says_what_is_gone(export: Export, tmp_path: Path) -> None:
    whole = proof.verify(export.source.folder, silent)
    assert [(o["output"], o["proof"]["ok"]) for o in whole] == [("adapter", True), ("merged", True)]
    copy = tmp_path / "copy"
    shutil.copytree(export.source.folder, copy)
    found = proof.verify(copy / "merged", silent)
    assert found[0]["proof"]["ok"], failed(found[0]["proof"])
    unknown = [c["what"] for c in found[0]["proof"]["checks"] if c["ok"] is None]
    assert unknown == [f"cannot tell: run {export.run.id} is not here"]
    cut_off(copy / "merged", export)
    size = (export.merged / "model.safetensors").stat().st_size
    found = proof.verify(copy / "merged", silent)
    assert failed(found[0]["proof"]) == {"files": f"model.safetensors has {size - 1000:,} bytes, not {size:,}"}


def test_memory_is_looked_at_before_anything_is_loaded(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "host_memory", lambda: (2**33, 2**20))
    with pytest.raises(ProofFailed) as raised:
        models.device(3_000_000_000, 128_000)
    assert raised.value.problems[0].what == (
        "the proof needs 13.0 GiB of memory to compute 3.00 billion weights in float32, 0.0 GiB are free"
    )
    assert "--no-proof" in raised.value.problems[0].hint
