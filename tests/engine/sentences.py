"""Tokenizers as SentencePiece makes them, trained here: BPE by scores with bytes for what is unknown, and unigram."""

from __future__ import annotations

import random
from typing import Any

_TEXT = (
    "the a of to in harbour lantern winter river answer question where when please bring seven little boats over water and "
    "then rest near old stone bridge before morning light falls hello world you it is city was"
)
_WORDS = _TEXT.split()
BYTES = [f"<0x{i:02X}>" for i in range(256)]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)


def bpe(style: str) -> Any:
    """`legacy` (a space before every piece of text, as Llama 2), `first` (before the whole text only) or `none` (as Gemma)."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    teacher = Tokenizer(models.BPE())
    teacher.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], show_progress=False
    )
    teacher.train_from_iterator(_lines(), trainer)
    learned = sorted(teacher.get_vocab(), key=teacher.get_vocab().__getitem__)
    singles = [t for t in learned[5:] if len(t) == 1]
    pieces = [t for t in learned[5:] if len(t) > 1]
    tokens = [*learned[:5], *BYTES, *pieces, *singles]
    known = {t: i for i, t in enumerate(tokens)}
    merges = []
    for piece in pieces:
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in known and piece[i:] in known]
        merges += sorted(pairs, key=lambda pair: (known[pair[0]], known[pair[1]]))
    core = Tokenizer(models.BPE(known, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if style == "legacy":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif style == "first":
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return _fast(core)


def unigram(one_space: bool = False) -> Any:
    """With a space before every piece of text; `one_space` makes runs of spaces one."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    core = Tokenizer(models.Unigram())
    if one_space:
        core.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        unk_token="<unk>",
        show_progress=False,
    )
    core.train_from_iterator(_lines(), trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return _fast(core)


def _lines() -> list[str]:
    chance = random.Random(5)
    return [" ".join(chance.choices(_WORDS, k=30)) + "." for _ in range(80)]


def _fast(core: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    return made
