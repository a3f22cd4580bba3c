"""How a tokenizer is written into a GGUF file: the ways that llama.cpp has for it, the likeliest first.

llama.cpp knows how a byte-level BPE splits text only by a name, for each name a way that is compiled in. The converter finds the name
by a hash of one vocabulary, so it knows no vocabulary that was trained or extended by the user. Here the name comes from how
tokenizer.json says that text is split, and each way is a candidate only: `texts` has llama.cpp tokenise with it.

Names and what they do: src/llama-vocab.cpp of llama.cpp as llama-cpp-python 0.3.36 brings it (read 2026-11-21).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""`gguf.TokenType`."""


@dataclass(frozen=True)
class Vocabulary:
    """One way to write a tokenizer.

    Attributes:
        model: `tokenizer.ggml.model`: `gpt2` (BPE by merges), `llama` (SentencePiece BPE by scores) or `t5` (unigram).
        pre: `tokenizer.ggml.pre`, how text is split first.
        tokens: Text of each token, by id.
        types: Type of each token.
        scores: Score of each token; None where merges decide.
        merges: `left right` by rank; None where scores decide.
        space_prefix: Whether text gets a space before it; None to leave that to the model.
        one_space: Whether runs of spaces become one; None to leave that to the model.
        charsmap: SentencePiece's table of replacements; empty for none.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] | None = None
    merges: tuple[str, ...] | None = None
    space_prefix: bool | None = None
    one_space: bool | None = None
    charsmap: bytes = b""


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"
_CASES = _START + _UPPER + "*" + _LOWER + "+@|" + _START + _UPPER + "+" + _LOWER + "*@|"
_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = _CASES.replace("@", "") + r"\p{N}|" + _SLASH
_GPT4O = _CASES.replace("@", _CONTRACTIONS + "?") + r"\p{N}{1,3}|" + _SLASH
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

SPLITS: dict[tuple[str, ...], tuple[str, ...]] = {
    (_LLAMA3,): ("llama-bpe", "smaug-bpe"),
    (_QWEN2,): ("qwen2",),
    (_QWEN35,): ("qwen35",),
    (_TEKKEN,): ("tekken",),
    (_GPT4O,): ("gpt-4o",),
    (_GPT2,): ("gpt-2",),
    ("digits", _GPT2): ("smollm", "starcoder"),
    (r"\p{N}", _GPT2): ("smollm", "starcoder"),
}
"""How tokenizer.json splits -> names that do so; the first that ignores merges as the tokenizer does comes first."""

NAMES = (
    "gpt-2", "smollm", "qwen2", "llama-bpe", "smaug-bpe", "tekken", "gpt-4o", "qwen35", "deepseek-llm", "deepseek-coder", "deepseek-v3",
    "falcon", "default", "chatglm-bpe", "bailingmoe", "seed-coder", "minicpm5", "laguna", "exaone-moe", "viking", "poro-chat", "jais-2",
    "youtu", "tiny_aya", "granite-embed-multi-97m", "superbpe", "afmoe", "chameleon", "ufakzeka", "spark2_5", "kimi-k2", "mellum2",
)  # fmt: skip
"""Every way of splitting that llama.cpp has, one name each, the common ones first."""
_IGNORES_MERGES = {"llama-bpe", "tekken", "minicpm5", "youtu", "granite-embed-multi-97m"}


def candidates(tokenizer: Any, size: int) -> Iterator[Vocabulary]:
    """The ways that llama.cpp may have for `tokenizer`, the likeliest first; none for kinds that it has no way for.

    Args:
        tokenizer: A fast tokenizer of transformers.
        size: Rows of the model's embedding.
    """
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    model = whole["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "")
    added = {a["id"]: a for a in whole.get("added_tokens") or []}
    if kind == "Unigram":
        yield from _unigram(whole, added, size)
    elif kind == "BPE" and _bytes(whole):
        yield from _byte_level(whole, added, size)
    elif kind == "BPE":
        yield from _spaces(whole, added, size)


def splits(whole: Mapping[str, Any]) -> tuple[str, ...]:
    """How the tokenizer.json `whole` splits text: a regular expression for each step, `digits` for single digits."""
    out: list[str] = []
    for step in _steps(whole.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Split":
            out.append(str(step["pattern"].get("Regex") or re.escape(step["pattern"].get("String", ""))))
        elif step["type"] == "Digits":
            out.append("digits" if step.get("individual_digits") else r"\p{N}+")
        elif step["type"] == "ByteLevel" and step.get("use_regex", True):
            out.append(_GPT2)
        elif step["type"] != "ByteLevel":
            out.append(str(step["type"]))
    return tuple(out)


def _byte_level(whole: Mapping[str, Any], added: Mapping[int, Any], size: int) -> Iterator[Vocabulary]:
    tokens, types = _tokens(whole["model"]["vocab"], added, size)
    merges = tuple(m if isinstance(m, str) else " ".join(m) for m in whole["model"]["merges"])
    found = splits(whole)
    known = SPLITS.get(found) or SPLITS.get(found[:2]) or ()
    ignoring = bool(whole["model"].get("ignore_merges"))
    likely = sorted(known, key=lambda name: (name in _IGNORES_MERGES) != ignoring)
    space = any(
        s["type"] == "ByteLevel" and s.get("add_prefix_space")
        for s in _steps(whole.get("pre_tokenizer"), "pretokenizers")
    )
    for name in dict.fromkeys([*likely, *NAMES]):
        yield Vocabulary("gpt2", name, tokens, types, merges=merges, space_prefix=True if space else None)


def _spaces(whole: Mapping[str, Any], added: Mapping[int, Any], size: int) -> Iterator[Vocabulary]:
    """SentencePiece's BPE: spaces are written as one visible character, unknown characters as bytes."""
    model = whole["model"]
    tokens, types = _tokens(model["vocab"], added, size, model.get("unk_token"))
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    scores = tuple(float(-ranks.get(t, len(merges) + i)) if types[i] != CONTROL else 0.0 for i, t in enumerate(tokens))
    first = Vocabulary("llama", "default", tokens, types, scores)
    prefixed = _prefixed(whole)
    for space in (prefixed, not prefixed):
        yield replace(first, space_prefix=space)
    joined = tuple(" ".join(m) for m in merges)
    for name in ("sarvam-moe", "gemma4"):
        yield Vocabulary("gpt2", name, tokens, types, merges=joined)


def _unigram(whole: Mapping[str, Any], added: Mapping[int, Any], size: int) -> Iterator[Vocabulary]:
    model = whole["model"]
    listed = model["vocab"]
    unknown = listed[model["unk_id"]][0] if model.get("unk_id") is not None else None
    tokens, types = _tokens({text: i for i, (text, _) in enumerate(listed)}, added, size, unknown)
    scores = tuple(float(listed[i][1]) if i < len(listed) else 0.0 for i in range(size))
    steps = _steps(whole.get("normalizer"), "normalizers")
    table = next(
        (
            base64.b64decode(s["precompiled_charsmap"])
            for s in steps
            if s["type"] == "Precompiled" and s.get("precompiled_charsmap")
        ),
        b"",
    )
    one = any(
        s["type"] == "Replace" and s.get("content") in (" ", "▁") and "{2,}" in str(s.get("pattern")) for s in steps
    )
    first = Vocabulary("t5", "default", tokens, types, scores, one_space=one, charsmap=table)
    prefixed = _prefixed(whole)
    for space in (prefixed, not prefixed):
        for single in (one, not one):
            yield replace(first, space_prefix=space, one_space=single)


def _tokens(
    vocabulary: Mapping[str, int], added: Mapping[int, Any], size: int, unknown: str | None = None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    texts = {i: text for text, i in vocabulary.items()} | {i: str(a["content"]) for i, a in added.items()}
    tokens, types = [], []
    for i in range(size):
        text = texts.get(i)
        if text is None:
            tokens.append(f"[PAD{i}]")
            types.append(UNUSED)
            continue
        kind = NORMAL
        if text == unknown:
            kind = UNKNOWN
        elif i in added:
            kind = CONTROL if added[i].get("special") else USER_DEFINED
            text = text if kind == CONTROL else text.replace("▁", " ")
        elif re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", text):
            kind = BYTE
        tokens.append(text)
        types.append(kind)
    return tuple(tokens), tuple(types)


def _bytes(whole: Mapping[str, Any]) -> bool:
    parts = [*_steps(whole.get("pre_tokenizer"), "pretokenizers"), *_steps(whole.get("decoder"), "decoders")]
    return any(step["type"] == "ByteLevel" for step in parts)


def _prefixed(whole: Mapping[str, Any]) -> bool:
    """Whether a space is put before text: by the normaliser, or by the step that splits at spaces."""
    if any(s["type"] == "Prepend" for s in _steps(whole.get("normalizer"), "normalizers")):
        return True
    for step in _steps(whole.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace":
            return step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space", True) is not False
    return False


def _steps(part: Any, key: str) -> list[dict[str, Any]]:
    if not part:
        return []
    return [inner for one in part[key] for inner in _steps(one, key)] if part["type"] == "Sequence" else [part]
