"""What a tokenizer is compared on: texts of every kind, as plain text, after a special token, and as a rendered conversation."""

from __future__ import annotations

import random
from typing import Any

from nothing_tune.engine import template_probes
from nothing_tune.engine.export import stops

PLAIN = (
    "Hello world",
    "hello",
    " leading",
    "trailing ",
    "  two  spaces   three    four",
    "a\nb\n\nc\n\n\nd",
    "tab\tand\t\ttabs",
    "\n",
    " ",
    "   ",
    "\r\nwindows\r\nlines",
    "I'm, you're, we've, they'll, he'd, it's, don't, CAN'T, I'M",
    "3 33 333 3333 33333 333333 3.14 1,000,000 2026-11-21",
    "x=1;y+=2;z**3//4 # comment",
    "def f(a, b=None):\n    return {'k': [a, b]}\n\n\nclass X:\n\tpass\n",
    "#include <stdio.h>\nint main(){return 0;}",
    '{"name": "f", "arguments": {"x": [1, 2.5e-3, null, true]}}',
    "https://example.org/a?b=c&d=%20e#f",
    "a_b__c-d--e.f..g...h",
    "!?!?!! ,,;;::",
    "(a)[b]{c}<d>",
    "naïve café über straße",
    "Ελληνικά κείμενο",
    "Привет, мир! Это проверка.",
    "日本語のテキストです。",
    "中文文本\uff0c测试。",
    "한국어 텍스트",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "שלום עולם",
    "مرحبا بالعالم",
    "🙂 🚀🚀 👩\u200d👩\u200d👧 🇮🇹",
    "½ ² ③ Ⅷ ١٢٣ \uff14\uff15\uff16",
    "CamelCaseWords andLowerUPPER MIXEDcase",
    "e.g. U.S.A. 5kg 10% $20 €30",
    "“curly” \u2018quotes\u2019 — dashes \u2013 and … dots",
    "supercalifragilisticexpialidocious" * 2,
    "aaaa" * 9,
    "word " * 12,
    "//////----======",
    "\u00a0no\u00a0break\u2003em",
    "a\u200bb",
)
EDGES = ("e\u0301le\u0300ve decomposed", "\ufb01 ligature", " \u3000 wide space", "\u0130stanbul")
"""Texts that some tokenizers normalise first (Qwen: NFC), which llama.cpp does not; a difference is told, no more."""


def made(tokenizer: Any) -> dict[str, list[str]]:
    """The texts by group: `plain`, `inside` (after a special token), `chat` (rendered conversations) and `edges`."""
    chance = random.Random(20261121)
    pieces = [*PLAIN, "ABC", "ß", "\uff11", "'", '"', "\n ", "\t ", ".", ". ", "-1", " 007"]
    mixed = ["".join(chance.choices(pieces, k=4)) for _ in range(40)]
    plain = [*PLAIN, *mixed]
    groups = {"plain": plain, "inside": [], "chat": [], "edges": list(EDGES)}
    marks = [a.content for _, a in sorted(tokenizer.added_tokens_decoder.items()) if a.special]
    if marks:
        chosen = stops.words(tokenizer)
        mark = next((w for w in chosen if w in marks), marks[0])
        groups["inside"] = [mark + text for text in plain]
        groups["edges"] += [f"a{m}b" for m in marks[:40]] + [f"a {m} b" for m in marks[:40]]
    added = [a.content for a in tokenizer.added_tokens_decoder.values() if not a.special][:20]
    groups["edges"] += [f"a {t} b" for t in added]
    template = stops.own_template(tokenizer)
    if template:
        groups["chat"] = [text for text in _chats(tokenizer, template) if text]
    return groups


def _chats(tokenizer: Any, template: str) -> list[str]:
    """Every plain text once as a question and once as an answer."""
    out = []
    for asked, said in zip(PLAIN, (*PLAIN[7:], *PLAIN[:7]), strict=True):
        talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        try:
            out.append(template_probes.rendered(tokenizer, template, talk, None)[0])
        except Exception:  # a template raises whatever it likes
            continue
    return out


def begins_bare(tokenizer: Any, chats: list[str], start: list[int]) -> bool:
    """Whether no conversation of `chats`, as the chat template writes it, begins with what the tokenizer puts before texts (`start`)."""
    if not chats or not start:
        return False
    return all(tokenizer(text, add_special_tokens=False)["input_ids"][: len(start)] != start for text in chats)


def special(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after every text: ids."""
    bare = tokenizer("a b", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a b")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []
