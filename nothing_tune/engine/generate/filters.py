"""Which answers are taken, and why the others are not. Decided one by one, in the order in which they came."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from nothing_tune.data.duplicates import Near
from nothing_tune.engine.generate.questions import Answer, Prompt
from nothing_tune.engine.generate.refusals import refusal
from nothing_tune.errors import Problem, UsageError

REASONS = (
    "empty", "unfinished", "short", "long", "artefact", "refusal", "language", "opening", "near_duplicate",
)  # fmt: skip
"""Why an answer is not taken, in the order in which it is looked at."""
EXAMPLES = 3
"""Examples that are kept of each reason."""
FEWEST_OPENINGS = 3
"""Answers of a group that may begin alike however few it has: a share of a handful is none."""
MARGIN = 6.0
"""How much likelier (natural log) another language must be than the wanted one: short texts and dialects are near."""
FEWEST_WORDS = 4
"""Answers of fewer words have no language that can be told."""
LOOP_WORDS = 40
"""From so many words on an answer is looked at for loops."""
LOOP_SHARE = 0.5
"""Share of different word triples below which an answer goes round in circles."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_END = re.compile(r"[.!?\u2026][\"'\u00bb\u201d\u2019)\]*_]*(?=\s|$)|[\u3002\uff01\uff1f]")
_LEFT = (
    (re.compile(r"<\|[^<>|\n]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"), "a special token"),
    (re.compile(r"</?think(?:ing)?>", re.I), "a thought"),
    (re.compile(r"^\s*#{2,3}\s*(?:instruction|response|input|answer)\s*:?", re.I | re.M), "a heading of a prompt"),
    (re.compile(r"^\s*(?:user|assistant|human|system|utente|assistente)\s*:", re.I | re.M), "a turn of its own"),
    (
        re.compile(
            r"\{\{[^{}\n]{1,40}\}\}|\[(?:your|insert|il tuo|la tua|tuo|nome|name|inserisci)\b[^\]\n]{0,30}\]", re.I
        ),
        "a placeholder",
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What becomes of an answer: `text` as the row will have it, or None and the `reason` of `REASONS` with its `detail`."""

    text: str | None
    reason: str = ""
    detail: str = ""


class Judge:
    """Decides on answers, and remembers what it has taken.

    Attributes:
        taken: Group -> answers taken; authentic ones are not counted.
        rejected: Group -> reason -> answers.
        examples: Reason -> the first few, as `{"prompt", "answer", "why"}`.
    """

    def __init__(self, filters: Mapping[str, Any], expected: Mapping[str, int]) -> None:
        """`filters` is `generate.filters`, in full; `expected` the generated answers that each group will have at most.

        Raises:
            UsageError: The language is none that can be told.
        """
        self.filters = filters
        self.taken: Counter[str] = Counter()
        self.rejected: dict[str, Counter[str]] = {}
        self.examples: dict[str, list[dict[str, str]]] = {}
        self._expected = expected
        self._openings: dict[str, Counter[tuple[str, ...]]] = {}
        self._near: Near[str] | None = Near(filters["near_duplicates"]) if filters["near_duplicates"] else None
        if filters["language"]:
            check_language(filters["language"])

    def know(self, text: str, place: str) -> None:
        """Remembers an authentic answer: a generated one that is nearly the same is no gain."""
        if self._near is not None:
            self._near.add({"text": text}, place)

    def judge(self, prompt: Prompt, answer: Answer) -> Verdict:
        """Decides on an answer, and counts it."""
        verdict = self._decide(prompt, answer)
        group = prompt.group
        if verdict.text is None:
            self.rejected.setdefault(group, Counter())[verdict.reason] += 1
            some = self.examples.setdefault(verdict.reason, [])
            if len(some) < EXAMPLES:
                some.append({"prompt": prompt.text[:300], "answer": answer.text[:300], "why": verdict.detail})
            return verdict
        self.taken[group] += 1
        if opening := self._opening(verdict.text):
            self._openings.setdefault(group, Counter())[opening] += 1
        if self._near is not None:
            self._near.add({"text": verdict.text}, prompt.place)
        return verdict

    def _decide(self, prompt: Prompt, answer: Answer) -> Verdict:
        filters, text = self.filters, answer.text.strip()
        if not text:
            return Verdict(None, "empty", "there is no text")
        if answer.finish == "content_filter":
            return Verdict(None, "refusal", "the endpoint's filter stopped it")
        if answer.finish == "length" and filters["unfinished"] != "keep":
            whole = trimmed(text) if filters["unfinished"] == "trim" else None
            if whole is None:
                return Verdict(None, "unfinished", "max_new_tokens cut it")
            text = whole
        words = len(_WORD.findall(text))
        if filters["min_words"] is not None and words < filters["min_words"]:
            return Verdict(None, "short", f"{words} word{'' if words == 1 else 's'}")
        if filters["max_words"] is not None and words > filters["max_words"]:
            return Verdict(None, "long", f"{words} words")
        if filters["artefacts"] and (found := artefact(text, prompt.text)):
            return Verdict(None, "artefact", found)
        if filters["refusals"] and (found := refusal(text)):
            return Verdict(None, "refusal", found)
        if filters["language"] and words >= FEWEST_WORDS and (other := other_language(text, filters["language"])):
            return Verdict(None, "language", f"it reads as {other}")
        if self._is_worn(prompt.group, text):
            return Verdict(None, "opening", " ".join(self._opening(text)))
        if self._near is not None and (twin := self._near.find({"text": text})):
            return Verdict(None, "near_duplicate", f"nearly the answer of {twin}")
        return Verdict(text)

    def _opening(self, text: str) -> tuple[str, ...]:
        """The first words of a text; empty when nothing counts openings, or it has no more words than an opening."""
        number = self.filters["opening_words"]
        words = _WORD.findall(text[: 40 * number].lower())[: number + 1]
        return tuple(words[:number]) if self.filters["openings"] and len(words) > number else ()

    def _is_worn(self, group: str, text: str) -> bool:
        """Whether as many answers of the group as may begin so do begin so already."""
        opening = self._opening(text)
        if not opening:
            return False
        allowed = max(FEWEST_OPENINGS, int(self.filters["openings"] * self._expected.get(group, 0)))
        return self._openings.get(group, Counter())[opening] >= allowed


def trimmed(text: str) -> str | None:
    """`text` up to the end of its last whole sentence; None when it has none, or when less than half would be left."""
    ends = [match.end() for match in _END.finditer(text)]
    return text[: ends[-1]] if ends and ends[-1] * 2 >= len(text) else None


def artefact(text: str, prompt: str) -> str:
    """What in an answer is left over from a template, or shows that it goes round in circles; empty when nothing does."""
    for pattern, what in _LEFT:
        if found := pattern.search(text):
            return f"{what}: {found[0].strip()}"
    words = [word.lower() for word in _WORD.findall(text)]
    asked = [word.lower() for word in _WORD.findall(prompt)]
    if words == asked and words:
        return "it repeats the question"
    triples = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    if len(words) >= LOOP_WORDS and len(set(triples)) < LOOP_SHARE * len(triples):
        return "it goes round in circles"
    return ""


def other_language(text: str, wanted: str) -> str:
    """The language that `text` is in, when it is clearly not `wanted` (ISO 639 codes); else empty.

    Told by py3langid (naive Bayes on byte n-grams; Lui and Baldwin 2012).
    """
    ranked = _ranked(text)
    best, score = ranked[0]
    of_wanted = next((value for name, value in ranked if name == wanted), float("-inf"))
    return best if best != wanted and score - of_wanted > MARGIN else ""


def check_language(code: str) -> None:
    """`UsageError` when no language has the code."""
    known = languages()
    if code not in known:
        near = get_close_matches(code.lower(), known, n=1, cutoff=0.5)
        raise UsageError(
            Problem(
                f"generate.filters.language is {code!r}, which is no language that can be told",
                key="generate.filters.language",
                hint=f"did you mean {near[0]}?" if near else "write a code such as it, en, de or fr",
            )
        )


@lru_cache(maxsize=1)
def languages() -> list[str]:
    """Codes of the languages that can be told."""
    return sorted(name for name, _ in _ranked("x"))


def _ranked(text: str) -> list[tuple[str, float]]:
    import py3langid

    return [(str(name), float(score)) for name, score in py3langid.rank(text)]
