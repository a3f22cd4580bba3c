"""Finds the key that a word means: a dotted key, a short name, a name of other tools, or one that upstream removed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nothing_tune.recipe.guidance import guidance
from nothing_tune.recipe.guidance.setting import ORDER, known, setting
from nothing_tune.recipe.names import OTHER, REMOVED
from nothing_tune.recipe.values import near

_TWICE = ("data.eval.", "data.sample.", "generate.prompts.")
"""Sources that have the same keys as data.train, and the sample's, which are those of data."""
NONE_CALLED = "no key of a recipe is called "
_ASIDE = ("generate.", "advice.")
"""Sections that are no part of a training: an everyday name means a key of the others first."""


@dataclass(frozen=True)
class Found:
    """What a word means.

    Attributes:
        keys: The keys: one, or the candidates of an ambiguous name; empty where the word has no successor, or means nothing.
        note: What became of the word, where the key is called otherwise; empty where it is called so.
        near: Keys of like names, where the word means nothing.
    """

    keys: tuple[str, ...] = ()
    note: str = ""
    near: tuple[str, ...] = ()


def find(word: str, kind: str = "LORA") -> Found:
    """What `word` means in a recipe with this PEFT type; see `Found`."""
    for name in dict.fromkeys((word, word.lower().strip("-.").replace("-", "_"))):
        tail, renamed = _tail(name, known(kind)), _renamed(name, kind)
        aside = tail.keys and all(key.startswith(_ASIDE) for key in tail.keys)
        order = (renamed, tail) if aside and renamed.keys else (tail, renamed)
        for found in (_exact(name, kind), *order, _elsewhere(name, kind)):
            if found is renamed and found is order[0] and found.keys:
                others = [key for key in tail.keys if not key.startswith("advice.")]
                also = (
                    f"; {' and '.join(others)} {'is another key' if len(others) == 1 else 'are other keys'}"
                    if others
                    else ""
                )
                return Found(found.keys, f"{found.note.replace(NONE_CALLED, '', 1)}{also}" if others else found.note)
            if found.keys or found.note:
                return found
    return Found(near=_near(word.lower().replace("-", "_"), kind))


def _exact(word: str, kind: str) -> Found:
    return _same(word) or (Found((word,)) if word and setting(word, kind) is not None else Found())


def _same(key: str) -> Found | None:
    entry = guidance(key)
    return Found((entry.same,), f"{key} is the older name of {entry.same}") if entry and entry.same else None


def _tail(word: str, keys: tuple[str, ...]) -> Found:
    """Keys that end with the word; those that repeat others (of a second source, of a group, facts of the GPU) only without these."""
    hits = [k for k in keys if k.endswith(f".{word}")]
    hits = [k for k in hits if "NAME" not in k] or hits
    hits = [k for k in hits if not k.startswith(_TWICE)] or hits
    hits = [k for k in hits if not k.startswith("gpu.")] or hits
    passed = [k for k in hits if (found := setting(k)) is None or found.rule != "refused"]
    hits = passed or hits
    if len(hits) == 1:
        return _same(hits[0]) or Found((hits[0],))
    return Found(tuple(sorted(hits, key=lambda k: k.startswith("generate."))))


def _renamed(word: str, kind: str) -> Found:
    """A name that upstream removed, or that other tools use: its successor, and the hint that errors give, too."""
    first, _, last = word.rpartition(".")
    for table, said in ((REMOVED, "upstream has removed {}"), (OTHER, f"{NONE_CALLED}{{}}")):
        for section, names in table.items():
            hint = names.get(last)
            if hint is None or first not in ("", section):
                continue
            return Found(_successor(section, hint, kind), f"{said.format(last)}: {hint.format(value='...')}")
    return Found()


def _successor(section: str, hint: str, kind: str) -> tuple[str, ...]:
    """The first key that a hint names."""
    for token in re.findall(r"[\w.]+", hint.replace("{value}", "")):
        token = token.strip(".")
        for key in (f"{section}.{token}" if section else "", token if "." in token else ""):
            if key and key in known(kind):
                return (key,)
    named = re.search(r"section is called (\w+)", hint) or re.match(r"write (layers|quantization|peft)\b", hint)
    return (named[1],) if named else ()


def _elsewhere(word: str, kind: str) -> Found:
    """Options of other PEFT methods."""
    return _tail(word, tuple(k for k in known(kind, others=True) if k.startswith("peft.")))


def _near(word: str, kind: str) -> tuple[str, ...]:
    section, _, last = word.rpartition(".")
    inside = [
        k for k in known(kind) if k not in ORDER and k.startswith(f"{section.partition('.')[0]}." if section else "")
    ]
    tails = {k.rpartition(".")[2]: k for k in reversed(inside)}
    found = near(word, list(ORDER), 0.8) or [tails[t] for t in near(last, list(tails), 0.7)]
    return tuple(found)
