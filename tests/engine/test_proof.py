"""What is proved of exports: the tokens that end an answer, the texts, the numbers, and that sound exports of every kind pass."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nothing_tune.engine.chat_templates import FOLDER, MARKERS
from nothing_tune.engine.export import adapter, base, merge, proof, source, stops
from nothing_tune.engine.export.proof import prompts, texts, weights
from nothing_tune.engine.export.proof.checks import distance
from nothing_tune.outputs import limits, manifest
from tests.engine import exports
from tests.engine.support import CHATML, tiny_tokenizer

pytestmark = pytest.mark.engine
SPECIAL = (
    "<|pad|>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<end_of_turn>",
    "<start_of_turn>", "<|end|>", "<|user|>", "<|assistant|>", "[INST]", "[/INST]",
)  # fmt: skip


def silent(**_: Any) -> None:
    """Nobody listens."""


def test_stops_are_found_by_rendering() -> None:
    tok = tiny_tokenizer(SPECIAL, pad_token="<|pad|>", eos_token="</s>", bos_token="<s>")
    ends = {
        "chatml": "<|im_end|>", "gemma": "<end_of_turn>", "gemma3": "<end_of_turn>", "llama3": "<|eot_id|>", "llama3_1": "<|eot_id|>",
        "mistral_v1": "</s>", "mistral_v3": "</s>",
    }  # fmt: skip
    for name, end in ends.items():
        tok.chat_template = MARKERS.sub("", (FOLDER / f"{name}.jinja").read_text(encoding="utf-8"))
        assert stops.words(tok) == list(dict.fromkeys([end, "</s>"])), name
    phi = "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}{{ eos_token }}"
    spoken = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    only_between = "{% for m in messages %}{% if not loop.first and m.role == 'user' %}<|im_end|>{% endif %}{{ m.content }}{% endfor %}"
    parts = "{% for m in messages %}{{ m.content[0].text }}<|end|>{% endfor %}"
    for template, words in (
        (phi, ["<|end|>", "</s>"]), (spoken, ["</s>", "\nuser:"]), (only_between, ["<|im_end|>", "</s>"]), (parts, ["<|end|>", "</s>"]),
        ({"default": CHATML, "tool_use": phi}, ["<|im_end|>", "</s>"]), (None, ["</s>"]),
    ):  # fmt: skip
        tok.chat_template = template
        assert stops.words(tok) == words, template


def test_stops_leave_the_padding_out_unless_it_ends() -> None:
    tok = tiny_tokenizer(SPECIAL, pad_token="<|pad|>", eos_token="</s>")
    tok.chat_template = CHATML
    ids = {t: tok.convert_tokens_to_ids(t) for t in SPECIAL}
    turn, text, pad, eot = (ids[t] for t in ("<|im_end|>", "</s>", "<|pad|>", "<|eot_id|>"))
    assert stops.stops(tok) == [turn, text]
    assert stops.stops(tok, {"eos_token_id": [pad, eot, 10**6]}) == [turn, text, eot]
    assert stops.stops(tok, {"eos_token_id": eot}) == [turn, text, eot]
    tok.pad_token = "</s>"
    assert stops.stops(tok) == [turn, text]
    found = texts.stop_tokens(tok, [text], "generation_config.json", None)
    assert (
        found["what"] == "<|im_end|>, which ends an answer, is not among the end tokens of generation_config.json: </s>"
    )
    found = texts.stop_tokens(tok, [turn, text], "the file", 0.97)
    assert (found["ok"], found["what"]) == (
        True,
        "<|im_end|> ends an answer, and stops it; the run gives it probability 0.97 there",
    )


def test_distance() -> None:
    same = torch.log_softmax(torch.randn(40, 7, generator=torch.Generator().manual_seed(0)), -1)
    assert distance(same, same + 3.0).kl < 1e-12  # what all share falls out
    assert distance(same, torch.cat([same, torch.full((40, 3), -9.0)], 1)).kl < 1e-12  # padding of the vocabulary
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert distance(p, q).kl == pytest.approx(0.5108256, abs=1e-6)  # ln(5/9)/2 + ln(5)/2
    assert distance(p, torch.full((1, 2), float("nan"))).kl == float("inf")


def test_limits_grow_with_coarseness() -> None:
    order = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")
    found = [limits.gguf(n) for n in order]
    assert [x.kl for x in found] == sorted(x.kl for x in found)
    assert all(x.poor < x.kl for x in found)
    assert limits.gguf("adapter-f16") == limits.gguf("f16")
    assert limits.gguf("q4_new").kl == limits.gguf("q4_0").kl
    assert [limits.conversion(n, 10**7).poor for n in ("f16", "f32", "q8_0")] == [1e-5, 1e-5, 2e-3]
    assert limits.conversion("f16", 8 * 10**9).poor == pytest.approx(1.006e-4)
    for name in ("f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m", "q2_k"):
        assert limits.conversion(name, 10**7).poor < limits.conversion(name, 10**7).kl <= limits.gguf(name).kl
    assert limits.merged("float32").kl < limits.merged("float16").kl < limits.merged("bfloat16").kl


def test_spread_and_vocabulary_bound_the_memory() -> None:
    assert prompts._spread(range(100), 3) == (0, 49, 99)
    assert prompts._spread(range(2), 5) == (0, 1)
    assert prompts._spread(range(5), 0) == ()
    assert prompts.BYTES // (4 * 128_256) == 292


def exported(run: Any, tmp: Path) -> tuple[Any, Any, Any]:
    """Source, reference and proofs of adapter and merged model of a run."""
    src = source.source(run, "handed-over", None)
    found = base.find(src.plan)
    if not src.full:
        adapter.make(src, silent)
    merge.make(src, found, src.folder / "merged", silent)
    ref = proof.reference(src, found, silent)
    proofs = [proof.merged(src.folder / "merged", src, ref)]
    if not src.full:
        proofs.append(proof.adapter(src, ref))
    return src, ref, proofs


def wrong(found: dict[str, Any], *allowed: str) -> list[str]:
    return [c["what"] for c in found["checks"] if c["ok"] is not True and c["name"] not in allowed]


def test_a_sound_export_and_its_copy_without_run_and_base(tmp_path: Path) -> None:
    """The whole of it once: proved, proved again from what was kept, and what can be told where run and base are gone."""
    run = exports.trained("lora", exports.model("llama", tmp_path / "base"), tmp_path / "runs")
    src, ref, proofs = exported(run, tmp_path)
    for found in proofs:
        assert not wrong(found, "stops"), found["checks"]
        assert found["kl"] < 1e-9 < 1e-3 < found["effect"]
        assert (found["ok"], found["top1"]) == (True, 1.0)
    assert any(p.own for p in ref.prompts)
    assert ref.run.shape[0] <= prompts.POSITIONS
    again = proof.reference(src, base.find(src.plan), silent)
    assert again.stored
    assert torch.equal(again.run, ref.run)
    merged = src.folder / "merged"
    manifest.add(merged, "merged", "merged", src.facts, [p for p in merged.rglob("*") if p.is_file()], {}, 1.0)
    shutil.copytree(src.folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(run.path)
    (told,) = proof.verify(tmp_path / "copy", silent)
    assert told["proof"]["ok"]
    assert told["proof"]["kl"] < 1e-9
    assert wrong(told["proof"], "stops") == [f"cannot tell: run {run.id} is not here", "cannot tell: the base is gone"]
    template = [c["what"] for c in told["proof"]["checks"] if c["name"] == "chat-template"]
    assert template == ["10 conversations are rendered as with the exported adapter's chat template"]
    kept = tmp_path / "copy" / ".proof" / "reference.safetensors"
    kept.write_bytes(kept.read_bytes()[:-4] + b"\0\0\0\1")
    (told,) = proof.verify(tmp_path / "copy", silent)
    assert told["proof"]["kl"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("number", "method"), list(enumerate(exports.METHODS)), ids=str)
def test_every_method_passes(number: int, method: str, tmp_path: Path) -> None:
    """Each method once, while families and stored types take turns; some need a family that has what they train."""
    names = list(exports.FAMILIES)
    family = {"bias": "qwen2", "tokens": "mistral", "head": "mistral"}.get(method, names[number % len(names)])
    dtype = ("float32", "bfloat16")[number % 2]
    run = exports.trained(method, exports.model(family, tmp_path / "base", dtype=dtype), tmp_path / "runs")
    for found in exported(run, tmp_path)[2]:
        assert not wrong(found, "stops"), found["checks"]


@pytest.mark.slow
def test_where_the_data_is_gone_the_fixed_set_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = exports.trained("lora", exports.model("llama", tmp_path / "base"), tmp_path / "runs")
    (tmp_path / "runs" / "rows.jsonl").unlink()
    _, ref, proofs = exported(run, tmp_path)
    assert not any(p.own for p in ref.prompts)
    assert "rows.jsonl" in ref.facts["why"]
    assert proofs[0]["ok"]
    assert wrong(proofs[0]) == ["cannot tell: there is no row of the run's own data to answer"]


def test_expected_weights_are_those_of_peft() -> None:
    """DoRA, rsLoRA and patterns by formula, against PEFT's own merge of one layer."""
    from peft import LoraConfig, get_peft_model

    for extra in ({}, {"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"0": 2}, "alpha_pattern": {"0": 3}}):
        torch.manual_seed(0)
        plain = torch.nn.Sequential(torch.nn.Linear(12, 8, bias=False))
        before = plain[0].weight.detach().clone()
        model = get_peft_model(plain, LoraConfig(target_modules=["0"], r=4, lora_alpha=8, **extra))
        layer = model.base_model.model[0]
        torch.nn.init.normal_(layer.lora_B["default"].weight)
        parts = {"A": layer.lora_A["default"].weight.detach(), "B": layer.lora_B["default"].weight.detach()}
        if "use_dora" in extra:
            parts["magnitude"] = layer.lora_magnitude_vector["default"].weight.detach() * 1.1
            layer.lora_magnitude_vector["default"].weight.data *= 1.1
        config = {"lora_alpha": 8, **extra}
        found = weights._expected("0.weight", before, parts, config, 8)
        merged = model.merge_and_unload()
        assert found is not None
        assert torch.allclose(found, merged[0].weight, atol=1e-5), extra
