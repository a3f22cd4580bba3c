"""What an export will make is known before it starts: outputs, sizes, what is only on the way, and what has to fall back."""

from __future__ import annotations

from typing import Any

from nothing_tune.outputs import Wanted, sizes
from nothing_tune.outputs.sizes import Size

QWEN: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
"""Qwen2.5-0.5B's config.json (huggingface.co/Qwen/Qwen2.5-0.5B, 2026-11): 494,032,768 parameters."""


def names(found: list[Size]) -> list[tuple[str, bool]]:
    return [(one.output, one.kept) for one in found]


def test_what_is_made_and_what_is_removed_again() -> None:
    for wanted, dtype, expected in (
        (Wanted(adapter=True), "bfloat16", [("adapter", True)]),
        (Wanted(merged=True), "bfloat16", [("adapter", True), ("merged", True)]),
        (
            Wanted(gguf=("q4_k_m",)),
            "bfloat16",
            [("adapter", True), ("merged", False), ("bf16", False), ("q4_k_m", True)],
        ),
        (
            Wanted(merged=True, gguf=("q8_0", "bf16")),
            "bfloat16",
            [("adapter", True), ("merged", True), ("q8_0", True), ("bf16", True)],
        ),
        (Wanted(gguf=("f16",)), "float16", [("adapter", True), ("merged", False), ("f16", True)]),
        (Wanted(gguf_adapter=True), "bfloat16", [("adapter", True), ("adapter-f16", True)]),
    ):
        assert names(sizes.sizes(wanted, QWEN, dtype, 1000)) == expected, wanted
    whole = sizes.sizes(Wanted(gguf=("q8_0",)), QWEN, "bfloat16", 1000, full=True)
    assert names(whole) == [("merged", True), ("bf16", False), ("q8_0", True)]
    assert whole[0].bytes == 1000
    for dtype, own, size in (("bfloat16", "float32", 500), ("float32", "bfloat16", 2000), ("float16", "float16", 1000)):
        assert sizes.sizes(Wanted(), QWEN, dtype, 1000, 77, full=True, own_dtype=own)[0].bytes == size


def test_sizes_and_fallbacks_of_a_known_model() -> None:
    found = {s.output: s for s in sizes.sizes(Wanted(merged=True, gguf=("f16", "q4_k_m")), QWEN, "bfloat16", 1000)}
    assert found["merged"].bytes == 2 * 494_032_768
    assert 0.98 < (found["f16"].bytes or 0) / 992e6 < 1.02
    assert 0.98 < (found["q4_k_m"].bytes or 0) / 395e6 < 1.02
    assert found["q4_k_m"].note.startswith("q4_k_m: ")
    assert "rows of 896 become" in found["q4_k_m"].note
    assert not found["f16"].note


def test_what_is_not_known_is_not_guessed() -> None:
    for config in (None, {"model_type": "unheard-of"}):
        found = sizes.sizes(Wanted(merged=True, gguf=("q8_0",)), config, "bfloat16", 1000)
        assert [s.bytes for s in found] == [1000, None, None, None]
        assert sizes.total(found) is None
    known = sizes.sizes(Wanted(merged=True), None, "bfloat16", 1000, merged_bytes=5000)
    assert sizes.total(known) == 6000
