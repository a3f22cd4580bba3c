"""The types of GGUF files: what each is, how large a model becomes in it, and which matrices cannot have it. Light.

llama.cpp's k-quants pack 256 weights of a row at a time: a matrix whose rows are no multiple of 256 gets another type, usually a
larger one. And a name such as `q4_k_m` is a recipe, not one type: some matrices of some layers get more bits. Both are counted here
tensor by tensor from config.json, before anything is converted.

Source of every rule: src/llama-quant.cpp and ggml/src/ggml-common.h of llama.cpp as llama-cpp-python 0.3.36 brings it (read
2026-11-21); compared with real files in tests/engine/test_gguf.py and with published ones in docs/gguf.md.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.errors import UsageError
from nothing_tune.plan.architecture import Shape, block_linears, shape

BLOCKS: dict[str, tuple[int, int]] = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q5_1": (32, 24), "q5_0": (32, 22), "q4_1": (32, 20),
    "q4_0": (32, 18), "iq4_nl": (32, 18), "q6_k": (256, 210), "q5_k": (256, 176), "q4_k": (256, 144), "iq4_xs": (256, 136),
    "q3_k": (256, 110), "iq3_s": (256, 110), "q2_k": (256, 84),
}  # fmt: skip
"""Tensor type -> (weights of a block, bytes of a block)."""

FALLBACKS = {
    "q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl", "iq3_s": "iq4_nl",
}  # fmt: skip
"""Tensor type -> what a matrix gets whose rows are no multiple of 256; f16 where they are no multiple of 32 either."""


@dataclass(frozen=True)
class QuantType:
    """One type of GGUF file.

    Attributes:
        name: As `--gguf` takes it.
        number: `llama_ftype` of llama.cpp.
        base: Type that most of its tensors have.
        bits: Bits per weight of the base type.
        block: Weights of a block: rows must be a multiple of it.
        fallback: What a matrix gets whose rows are not; empty where every row fits.
        words: What it is good for, a few words.
    """

    name: str
    number: int
    base: str
    bits: float
    block: int
    fallback: str
    words: str


@dataclass(frozen=True)
class Tensor:
    """A matrix of a GGUF file, as far as its type depends on it.

    Attributes:
        name: As in the file, `blk.3.attn_v`, without `.weight`.
        columns: Weights of a row.
        rows: Rows, those of all experts counted.
        kept: Type that no quantisation changes (`f32` for norms, biases, routers); empty for what is quantised.
    """

    name: str
    columns: int
    rows: int = 1
    kept: str = ""


@dataclass(frozen=True)
class Fallback:
    """Matrices that cannot have the type that they should.

    Attributes:
        count: How many.
        columns: Weights of their rows.
        wanted: The type they should have.
        used: The type they get.
    """

    count: int
    columns: int
    wanted: str
    used: str

    def __str__(self) -> str:
        return f"{self.count} matrices with rows of {self.columns:,} become {self.used} instead of {self.wanted}"


def _type(name: str, number: int, base: str, words: str) -> QuantType:
    block, size = BLOCKS[base]
    return QuantType(
        name, number, base, 8 * size / block, block, FALLBACKS.get(base, "f16" if block > 1 else ""), words
    )


TYPES: dict[str, QuantType] = {
    t.name: t
    for t in (
        _type("f32", 0, "f32", "as trained in float32; twice the size of f16"),
        _type("f16", 1, "f16", "16 bits, for every llama.cpp"),
        _type("bf16", 32, "bf16", "16 bits with the range of bfloat16"),
        _type("q8_0", 7, "q8_0", "almost as good as f16"),
        _type("q6_k", 18, "q6_k", "close to q8_0"),
        _type("q5_k_m", 17, "q5_k", "small loss"),
        _type("q5_k_s", 16, "q5_k", "small loss, a little smaller"),
        _type("q5_1", 9, "q5_1", "older; fits rows of 32"),
        _type("q5_0", 8, "q5_0", "older; fits rows of 32"),
        _type("q4_k_m", 15, "q4_k", "the usual choice"),
        _type("q4_k_s", 14, "q4_k", "a little smaller than q4_k_m"),
        _type("iq4_nl", 25, "iq4_nl", "fits rows of 32"),
        _type("iq4_xs", 30, "iq4_xs", "smaller than q4_k_s"),
        _type("q4_1", 3, "q4_1", "older; fits rows of 32"),
        _type("q4_0", 2, "q4_0", "older; fast on small CPUs"),
        _type("q3_k_l", 13, "q3_k", "visible loss"),
        _type("q3_k_m", 12, "q3_k", "visible loss"),
        _type("q3_k_s", 11, "q3_k", "strong loss"),
        _type("iq3_m", 27, "iq3_s", "visible loss, smaller than q3_k_m"),
        _type("iq3_s", 26, "iq3_s", "strong loss"),
        _type("q2_k", 10, "q2_k", "very strong loss"),
    )
}
"""Name -> type, the best first."""

UNQUANTISED = ("f32", "f16", "bf16")
"""Types that the converter writes itself; all others are made from a file of one of them."""

_MATRIX = "llama.cpp makes it only with an importance matrix, measured on text with llama-imatrix, which this tool does not make"
_TERNARY = "it is meant for models trained with weights of three values"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("iq3_xs", "iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s", "q2_k_s"), _MATRIX),
    **dict.fromkeys(("tq1_0", "tq2_0"), _TERNARY),
    "q2_0": _TERNARY,
    "q1_0": _TERNARY,
    "mxfp4_moe": "it is meant for models that were trained in it",
}
"""Types that llama.cpp knows and that are not made here -> why."""


def find(name: str) -> QuantType:
    """The type called `name`, capitals or not.

    Raises:
        UsageError: There is none, or it cannot be made here; the text says why and what is near.
    """
    wanted = name.strip().lower().replace("-", "_")
    if wanted in TYPES:
        return TYPES[wanted]
    if wanted in REFUSED:
        raise UsageError(f"the GGUF type {wanted} cannot be made here: {REFUSED[wanted]}", hint=_near(wanted))
    raise UsageError(f"there is no GGUF type {name}", hint=_near(wanted))


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, TYPES, 3, 0.5)
    return f"near it: {', '.join(near)}" if near else f"there are {', '.join(TYPES)}"


def fallbacks(config: Mapping[str, Any], name: str) -> list[Fallback]:
    """The matrices of a model that cannot have the type that `name` gives them, alike ones together, the most first.

    Args:
        config: config.json of the model.
        name: One of `TYPES`.

    Raises:
        Unlisted: The family's matrices are not known.
    """
    counted: Counter[tuple[int, str, str]] = Counter()
    for tensor, wanted, used in types(config, name):
        if wanted != used:
            counted[tensor.columns, wanted, used] += 1
    return [Fallback(n, columns, wanted, used) for (columns, wanted, used), n in counted.most_common()]


def size(config: Mapping[str, Any], name: str) -> int:
    """Bytes that the GGUF file of a model will have, tensor by tensor; header and vocabulary are estimated.

    Raises:
        Unlisted: The family's matrices are not known.
    """
    total = TOKEN * _text(config).vocab + 8_000
    for tensor, _, used in types(config, name):
        block, size_ = BLOCKS[used]
        total += -(-(tensor.rows * tensor.columns // block * size_) // ALIGNMENT) * ALIGNMENT + 60
    return total


TOKEN = 36
"""Bytes that a token takes in the header, an estimate: its text with its length, its type, and its merge; 26 in nano's 1,536."""
ALIGNMENT = 32


def types(config: Mapping[str, Any], name: str) -> Iterator[tuple[Tensor, str, str]]:
    """Every tensor of a model's file with the type it should have in `name` and the one it gets.

    Raises:
        Unlisted: The family's matrices are not known.
    """
    kind, about = find(name), _text(config)
    chooser = _Mixture(kind, about)
    for tensor in tensors(about):
        if tensor.kept or kind.name in UNQUANTISED:
            used = tensor.kept or kind.name
            yield tensor, used, used
            continue
        wanted = chooser.wanted(tensor)
        yield tensor, wanted, _fitting(wanted, tensor.columns)


def _text(config: Mapping[str, Any]) -> Shape:
    """The shape of the part that reads and writes text: a model that also sees keeps its eyes out of the file."""
    inner = config.get("text_config")
    if isinstance(inner, Mapping) and inner.get("model_type"):
        tied = {"tie_word_embeddings": config["tie_word_embeddings"]} if "tie_word_embeddings" in config else {}
        return shape({**tied, **inner})
    return shape(config)


def _fitting(wanted: str, columns: int) -> str:
    if columns % BLOCKS[wanted][0] == 0:
        return wanted
    other = FALLBACKS.get(wanted, wanted)
    return other if columns % BLOCKS[other][0] == 0 else "f16"


NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "dense": "attn_output",
    "qkv_proj": "attn_qkv", "query_key_value": "attn_qkv",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down", "gate_up_proj": "ffn_up",
    "c_fc": "ffn_up", "c_proj": "ffn_down", "fc1": "ffn_up", "fc2": "ffn_down",
    "dense_h_to_4h": "ffn_up", "dense_4h_to_h": "ffn_down", "experts.down_proj": "ffn_down_exps",
}  # fmt: skip
"""Leaf name of a matrix -> its name in GGUF files."""


def tensors(about: Shape) -> Iterator[Tensor]:
    """The tensors of a model's file. Norms of a layer are one entry: their type never changes and they are small."""
    yield Tensor("token_embd", about.hidden, about.vocab)
    if not about.tied:
        yield Tensor("output", about.hidden, about.vocab)
    layer = 0
    counted = about.embedding + about.output
    for block, times in about.blocks:
        for _ in range(times):
            for linear in block_linears(about, block):
                head = f"blk.{layer}."
                counted += linear.parameters
                if linear.name == "experts.gate_up_proj":
                    half = linear.rows // 2 * linear.count
                    yield Tensor(f"{head}ffn_gate_exps", linear.columns, half)
                    yield Tensor(f"{head}ffn_up_exps", linear.columns, half)
                elif linear.name == "shared_expert_gate":
                    yield Tensor(f"{head}ffn_gate_inp_shexp", linear.columns, linear.rows, "f32")
                else:
                    yield Tensor(head + NAMES[linear.name], linear.columns, linear.rows * linear.count)
                if linear.bias:
                    yield Tensor(f"{head}{NAMES[linear.name]}.bias", linear.rows, 1, "f32")
            layer += 1
    yield Tensor("norms and routers", 1, max(0, about.parameters - counted), "f32")


class _Mixture:
    """Which type each tensor of one file should have; asked for every tensor in the order of the layers."""

    def __init__(self, kind: QuantType, about: Shape) -> None:
        self.kind, self.about = kind, about
        self.name = kind.name
        self.shared = about.heads // about.kv_heads
        self.experts = max((b.experts.count for b, _ in about.blocks if b.experts), default=1)
        self.values = sum(_is(t.name, "attn_v", "attn_qkv") for t in tensors(about) if not t.kept)
        self.seen: Counter[str] = Counter()

    def wanted(self, tensor: Tensor) -> str:
        """The type of `tensor` where its rows fit."""
        base, name = self.kind.base, tensor.name
        if name == "output" or (name == "token_embd" and self.about.tied):
            if base == "q8_0" or tensor.columns % BLOCKS[base][0]:
                return "q8_0"
            return "q6_k"
        if name == "token_embd":
            return base
        if _is(name, "attn_v", "attn_qkv"):
            self.seen["values"] += 1
            return self._values(self.seen["values"] - 1)
        if self.experts == 8 and _is(name, "attn_k"):
            return "q8_0"
        if "ffn_down" in name:
            number = self.seen["down"] if self.experts == 1 else int(name.split(".")[1])
            self.seen["down"] += 1
            return self._down(number)
        if _is(name, "attn_output"):
            return self._output()
        return base

    def _values(self, number: int) -> str:
        base, many = self.kind.base, self.shared >= 4
        found = base
        if self.name == "q2_k":
            found = "q4_k" if many else "q3_k"
        elif self.name == "iq3_m" or (self.name == "iq3_s" and many):
            found = "q4_k"
        elif self.name == "q3_k_m":
            found = "q5_k" if number < 2 else "q4_k"
        elif self.name == "q3_k_l" or (self.name in ("iq4_nl", "iq4_xs") and many):
            found = "q5_k"
        elif self.name in ("q4_k_m", "q5_k_m") and _more(number, self.values):
            found = "q6_k"
        elif self.name == "q4_k_s" and number < 4:
            found = "q5_k"
        if self.about.layers == 80 and self.about.family in LARGE and found in ("q3_k", "q4_k") and self._seventy():
            found = "q5_k"
        return "q8_0" if self.experts == 8 else found

    def _seventy(self) -> bool:
        return self.about.family != "llama" or self.shared > 1

    def _down(self, number: int) -> str:
        layers = self.about.layers
        early = number < layers // 8
        name = self.name
        if name == "q2_k":
            return "q3_k"
        if name == "q3_k_m":
            return "q5_k" if number < layers // 16 else "q4_k"
        if name == "q3_k_l" or (early and name in ("q4_k_s", "iq4_nl", "iq4_xs")):
            return "q5_k"
        if name == "iq3_m" and (early or (self.experts == 8 and _more(number, layers))):
            return "q4_k"
        if name in ("q4_k_m", "q5_k_m") and _more(number, layers):
            return "q6_k"
        return self.kind.base

    def _output(self) -> str:
        if self.experts == 8:
            small = ("q2_k", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s", "iq3_m", "iq4_xs")
            return "q5_k" if self.name in small else self.kind.base
        return {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k", "iq3_m": "q4_k"}.get(self.name, self.kind.base)


LARGE = ("llama", "qwen2", "mistral")
"""Families whose models of 80 layers llama.cpp treats as 70B: their values get more bits."""


def _is(name: str, *leaves: str) -> bool:
    return name.rsplit(".", 1)[-1] in leaves


def _more(number: int, of: int) -> bool:
    """Whether matrix `number` of `of` alike ones is among those that the _m types give more bits: first and last eighth, every third."""
    return number < of // 8 or number >= 7 * of // 8 or (number - of // 8) % 3 == 2
