"""Whether two models are of one family: a model that is trained on answers of its own kind learns its own habits ("circular").

Told from the names of well-known families, which also fine-tunes, quantised copies and an endpoint's tags carry
(`Qwen/Qwen2.5-3B-Instruct`, `qwen2.5:3b`, `unsloth/Llama-3.2-1B-bnb-4bit`). A name decides before an architecture does: Minerva has
Mistral's architecture, its own tokenizer and its own training. Where a name tells nothing, `model_type` and the size of the
vocabulary of two config.json decide; where these are not there, the answer is unknown.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nothing_tune.data.hub import cached_config

FAMILIES: dict[str, tuple[str, ...]] = {
    "Qwen": ("qwen", "qwq", "qvq"),
    "Llama": ("llama", "vicuna", "alpaca", "wizardlm", "codellama"),
    "Mistral": ("mistral", "mixtral", "ministral", "codestral", "magistral", "devstral", "zephyr", "pixtral"),
    "Minerva": ("minerva",),
    "Gemma": ("gemma", "medgemma", "codegemma", "shieldgemma"),
    "Gemini": ("gemini",),
    "Phi": ("phi",),
    "Claude": ("claude",),
    "GPT": ("gpt", "gpt4o", "chatgpt", "o1", "o3", "o4"),
    "DeepSeek": ("deepseek",),
    "Falcon": ("falcon",),
    "OLMo": ("olmo", "olmoe", "tulu"),
    "SmolLM": ("smollm",),
    "Granite": ("granite",),
    "Command": ("command", "aya", "c4ai"),
    "Yi": ("yi",),
    "InternLM": ("internlm",),
    "Bloom": ("bloom", "bloomz"),
    "Pythia": ("pythia",),
    "StableLM": ("stablelm",),
    "GLM": ("glm", "chatglm"),
    "Kimi": ("kimi", "moonlight"),
    "Grok": ("grok",),
    "EXAONE": ("exaone",),
    "Velvet": ("velvet",),
    "Apertus": ("apertus",),
    "EuroLLM": ("eurollm",),
    "Teuken": ("teuken",),
}
"""Family -> words that names of its models hold."""
NO_WORDS = ("neox", "gptq")
"""Words that begin like a family's and are none."""
_FAMILY_OF = {word: family for family, words in FAMILIES.items() for word in words}
_BORROWED = {"GPT": re.compile(r"gpt[-_ ]?(?:neo|j\b|2\b)", re.I)}
"""Names of others' models that hold a family's word."""


def families(name: str) -> set[str]:
    """The families that a model's name tells of: none for an unknown one, two for `DeepSeek-R1-Distill-Qwen-7B`."""
    out = set()
    # What comes last names the model; the owner before it is a person or a company (meta-llama, mistralai, google).
    last = name.rstrip("/").rsplit("/", 1)[-1]
    for word in re.findall(r"[a-z]+(?:4o|\d)?", last.lower()):
        bare = word.rstrip("0123456789")
        for known in (word, bare):
            if known in _FAMILY_OF and known not in NO_WORDS:
                out.add(_FAMILY_OF[known])
        # tinyllama, openllama, codeqwen: the family's word at the end of a longer one
        for known, family in _FAMILY_OF.items():
            if len(known) >= 4 and bare.endswith(known) and bare not in NO_WORDS:
                out.add(family)
    return {family for family in out if not (family in _BORROWED and _BORROWED[family].search(last))}


def same(trained: dict[str, Any], generator: dict[str, Any]) -> tuple[bool | None, str]:
    """`(whether they are of one family, by what it is told)`; None where it cannot be told.

    Args:
        trained: The recipe's `model`: `name_or_path`, and `facts` where the recipe has them.
        generator: The recipe's `generate.generator`.
    """
    one, other = str(trained.get("name_or_path") or ""), str(generator.get("model") or "")
    if one and one == other:
        return True, "they are one model"
    mine, theirs = config(one, trained.get("facts")), config(other) if generator["kind"] == "transformers" else {}
    named = families(one) | families(str(mine.get("_name_or_path") or ""))
    asked = families(other) | families(str(theirs.get("_name_or_path") or ""))
    if named and asked:
        both = sorted(named & asked)
        return (True, f"both are {both[0]} models") if both else (False, f"{_all(named)} and {_all(asked)}")
    kinds, sizes = ([found.get(key) for found in (mine, theirs)] for key in ("model_type", "vocab_size"))
    if None not in kinds and None not in sizes:
        if kinds[0] == kinds[1] and sizes[0] == sizes[1]:
            return True, f"both are of type {kinds[0]} with {sizes[0]:,} tokens in the vocabulary"
        return False, f"{kinds[0]} with {sizes[0]:,} tokens and {kinds[1]} with {sizes[1]:,}"
    unknown = [name for name, found in ((one or "the trained model", named), (other, asked)) if not found]
    return None, f"nothing tells the family of {' and '.join(unknown)}"


def config(name: str, facts: Any = None) -> dict[str, Any]:
    """`model_type`, `vocab_size` of a model: of its folder, of the local cache of the hub, or of `facts`; empty where unknown."""
    path = Path(name).expanduser() / "config.json"
    if name and not path.is_file():
        path = cached_config(name) or path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            inner = found.get("text_config")
            return {**(inner if isinstance(inner, dict) else {}), **found}
    except (OSError, ValueError):
        pass
    out: dict[str, Any] = {}
    if isinstance(facts, dict) and isinstance(facts.get("vocab_size"), int):
        kind = re.fullmatch(r"(\w+?)(?:ForCausalLM|LMHeadModel)", str(facts.get("architecture") or ""))
        out = {"vocab_size": facts["vocab_size"], **({"model_type": kind[1].lower()} if kind else {})}
    return out


def _all(names: set[str]) -> str:
    return " and ".join(sorted(names))
