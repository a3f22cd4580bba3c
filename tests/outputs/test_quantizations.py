"""Types of GGUF files: sizes against published files, fallbacks against what llama.cpp did, and what cannot be made."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from nothing_tune.errors import UsageError
from nothing_tune.outputs import gguf_file, quantizations
from nothing_tune.plan.architecture import Unlisted

QWEN_7B: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_1B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 64, "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_3B = {**LLAMA_1B, "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24, "head_dim": 128}
QWEN_05B = {
    **QWEN_7B, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
PUBLISHED = [
    # listing of mradermacher/Qwen2.5-7B-GGUF on huggingface.co, GB (read 2026-11-21); q8_0 and f16 from DevQuasar's of the same model
    (QWEN_7B, {
        "f16": 15.2, "q8_0": 8.1, "q6_k": 6.25, "q5_k_m": 5.44, "q5_k_s": 5.32, "q4_k_m": 4.68, "q4_k_s": 4.46, "iq4_xs": 4.25,
        "q3_k_l": 4.09, "q3_k_m": 3.81, "q3_k_s": 3.49, "iq3_m": 3.57, "iq3_s": 3.5, "q2_k": 3.02,
    }),
    # card of bartowski/Llama-3.2-1B-Instruct-GGUF, GB (read 2026-11-21)
    (LLAMA_1B, {"f16": 2.48, "q8_0": 1.32, "q6_k": 1.02, "q5_k_m": 0.91, "q5_k_s": 0.89, "q4_k_m": 0.81, "q4_k_s": 0.78}),
    # listing of bartowski/Llama-3.2-3B-Instruct-GGUF, GB (from memory)
    (LLAMA_3B, {"f16": 6.43, "q8_0": 3.42, "q6_k": 2.64, "q5_k_m": 2.32, "q4_k_m": 2.02}),
]  # fmt: skip


def test_sizes_are_those_of_published_files() -> None:
    for config, sizes in PUBLISHED:
        for name, gigabytes in sizes.items():
            found = quantizations.size(config, name) / 1e9
            assert found == pytest.approx(gigabytes, rel=0.02), (config["hidden_size"], name, found)


def test_rows_that_do_not_fit_are_told_before() -> None:
    found = quantizations.fallbacks(QWEN_05B, "q4_k_m")
    assert [(f.count, f.columns, f.wanted, f.used) for f in found] == [
        (132, 896, "q4_k", "q5_0"),
        (12, 896, "q6_k", "q8_0"),
    ]
    assert str(found[0]) == "132 matrices with rows of 896 become q5_0 instead of q4_k"
    assert quantizations.fallbacks(QWEN_05B, "q8_0") == []
    assert quantizations.fallbacks(LLAMA_1B, "q4_k_m") == []
    odd = {**LLAMA_1B, "hidden_size": 2050, "tie_word_embeddings": False}
    assert {(f.wanted, f.used) for f in quantizations.fallbacks(odd, "q8_0")} == {("q8_0", "f16")}


def test_experts_and_eyes_are_counted() -> None:
    mixtral = {
        **LLAMA_1B,
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    }
    names = {t.name: used for t, _, used in quantizations.types(mixtral, "q4_k_m")}
    assert names["blk.5.attn_v"] == names["blk.5.attn_k"] == "q8_0"
    assert names["blk.5.attn_output"] == "q5_k"
    assert names["blk.15.ffn_down_exps"] == "q6_k"
    assert names["blk.5.ffn_gate_exps"] == "q4_k"
    assert names["output"] == "q6_k"
    seeing = {"model_type": "gemma3", "text_config": {**LLAMA_1B, "model_type": "llama"}}
    assert quantizations.size(seeing, "q8_0") == quantizations.size(LLAMA_1B, "q8_0")
    with pytest.raises(Unlisted):
        quantizations.size({**LLAMA_1B, "model_type": "mamba"}, "q8_0")


def test_names_are_found_or_refused_with_words() -> None:
    assert quantizations.find(" Q4_K_M ").number == 15
    for name, what, hint in (
        ("q4_k_n", "there is no GGUF type q4_k_n", "near it: q4_k_s, q4_k_m, q5_k_s"),
        (
            "iq2_xs",
            "the GGUF type iq2_xs cannot be made here: llama.cpp makes it only with an importance matrix, measured on text with "
            "llama-imatrix, which this tool does not make",
            "near it: iq4_xs, iq3_s, q2_k",
        ),
    ):
        with pytest.raises(UsageError) as caught:
            quantizations.find(name)
        problem = caught.value.problems[0]
        assert problem.what == what
        assert problem.hint == hint


def test_a_header_is_read_and_a_torn_file_seen(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    path = tmp_path / "a.gguf"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 100) + text("x") * 100
    head += text("blk.0.attn_v.weight") + struct.pack("<IQQIQ", 2, 64, 3, 8, 0)
    head += b"\0" * (-len(head) % 32)
    path.write_bytes(head + b"\1" * (64 * 3 // 32 * 34))
    found = gguf_file.check(path)
    assert found.facts == {"general.architecture": "llama"}
    assert [(t.name, t.shape, t.type, t.bytes) for t in found.tensors] == [
        ("blk.0.attn_v.weight", (64, 3), "q8_0", 204)
    ]
    assert len(gguf_file.read(path, ["tokenizer.ggml.tokens"]).facts["tokenizer.ggml.tokens"]) == 100
    whole = path.read_bytes()
    for content, words in (
        (whole[:-1], f"{path} is cut off: it has {len(whole) - 1:,} bytes of {len(whole):,}"),
        (whole[:90], f"{path} is damaged: its header ends too early or makes no sense"),
        (b"\0" * 500, f"{path} is no GGUF file"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            gguf_file.check(path)
        assert caught.value.problems[0].what == words
