"""How another model judges answers: the files `recipes/judges/*.yaml` and those of people, read strictly. They are no layers."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nothing_tune.errors import Place, Problem, RecipeError, UsageError
from nothing_tune.recipe.library import JUDGES, library_root, names
from nothing_tune.recipe.reader import read_file

KEYS = ("name", "title", "kind", "system", "prompt", "verdict", "sampling")
KINDS = ("pairwise", "score")
VERDICT = {"pairwise": ("pattern", "first", "second", "tie"), "score": ("pattern", "low", "high")}
NEEDED = {"pairwise": ("answer_a", "answer_b"), "score": ("answer",)}
"""What the prompt must name; `conversation` and `reference` may be there, too."""
FIELDS = ("conversation", "reference")
SAMPLING = ("temperature", "max_tokens")


@dataclass(frozen=True)
class Judge:
    """How answers are judged.

    Attributes:
        name: Its name.
        kind: `pairwise` (two answers, both orders) or `score` (one answer).
        system: What the judge is told first; empty for nothing.
        prompt: What is asked, with `{conversation}`, `{reference}`, and `{answer_a}`, `{answer_b}` or `{answer}`.
        pattern: What the last line of a verdict is, whole; its first group is the verdict.
        first, second, tie: The verdicts of a pairwise judge; `tie` may be empty.
        low, high: The scores that count.
        temperature: Of the judge, 0 or more.
        max_tokens: Longest verdict.
        title: One line for people.
    """

    name: str
    kind: str
    system: str
    prompt: str
    pattern: str
    first: str = ""
    second: str = ""
    tie: str = ""
    low: float = 0.0
    high: float = 0.0
    temperature: float = 0.0
    max_tokens: int = 400
    title: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def verdict(self, text: str) -> str | float | None:
        """What a reply says: `first`, `second` or `tie`, or a score; None where its last line is not of the form asked for."""
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        found = re.fullmatch(self.pattern, lines[-1]) if lines else None
        if not found:
            return None
        said = str(found.group(1) if found.groups() else found.group(0)).strip()
        if self.kind == "pairwise":
            return next((word for word in ("first", "second", "tie") if said and said == getattr(self, word)), None)
        try:
            score = float(said)
        except ValueError:
            return None
        return score if self.low <= score <= self.high else None


def find_judge(name: str) -> Judge:
    """The judge that `name` means: a YAML file, or one of the library (`pairwise`, `score`).

    Raises:
        UsageError: There is none, or its file cannot be used.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        known = names(JUDGES)
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}, or a YAML file"
            raise UsageError(f"no judge {name!r}: looked for {path.absolute()} and in the library", hint=hint)
        path = library_root() / JUDGES / f"{name}.yaml"
    return read_judge(path)


def read_judge(path: Path) -> Judge:
    """The judge in a file. `RecipeError` with every problem and its place."""
    values, keys, places = read_file(path)
    problems: list[Problem] = []

    def wrong(key: str, what: str, hint: str = "") -> None:
        place = places.get(key) or keys.get(key) or places.get(key.rpartition(".")[0]) or Place(str(path), 1, 1)
        problems.append(Problem(what, key, place, hint=hint))

    def text(inside: Mapping[str, Any], key: str, prefix: str = "", needed: bool = True) -> str:
        value = inside.get(key)
        if value is None and not needed:
            return ""
        if not isinstance(value, str) or not value.strip():
            state = "must be a text" if key in inside else "is missing"
            wrong(f"{prefix}{key}", f"{prefix}{key} {state}")
            return ""
        return value

    def number(inside: Mapping[str, Any], key: str, prefix: str, default: float | None = None) -> float:
        value = inside.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value - value != 0:
            wrong(f"{prefix}{key}", f"{prefix}{key} {'must be a number' if key in inside else 'is missing'}")
            return 0.0
        return float(value)

    def unknown(inside: Mapping[str, Any], allowed: tuple[str, ...], prefix: str = "") -> None:
        for key in inside:
            if key not in allowed:
                near = get_close_matches(str(key), allowed, n=1)
                hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(allowed)}"
                wrong(f"{prefix}{key}", f"{prefix}{key} is not a key of a judge", hint)

    def mapping(key: str) -> Mapping[str, Any]:
        value = values.get(key) or {}
        if not isinstance(value, Mapping):
            wrong(key, f"{key} must be a mapping")
            return {}
        return value

    unknown(values, KEYS)
    kind = text(values, "kind")
    if kind and kind not in KINDS:
        wrong("kind", f"kind is {kind!r}, which is none of {', '.join(KINDS)}")
    kind = kind if kind in KINDS else "pairwise"
    prompt = text(values, "prompt")
    for why in _fields(prompt, kind) if prompt else ():
        wrong("prompt", why)
    verdict = mapping("verdict")
    unknown(verdict, VERDICT[kind], "verdict.")
    pattern = text(verdict, "pattern", "verdict.")
    try:
        re.compile(pattern)
    except re.error as error:
        wrong("verdict.pattern", f"verdict.pattern is no regular expression: {error}")
    pair, score = kind == "pairwise", kind == "score"
    low, high = (number(verdict, k, "verdict.") if score else 0.0 for k in ("low", "high"))
    if score and low >= high and not problems:
        wrong("verdict.low", f"verdict.low is {low:g}, not below high, {high:g}")
    sampling = mapping("sampling")
    unknown(sampling, SAMPLING, "sampling.")
    temperature = number(sampling, "temperature", "sampling.", 0.0)
    longest = number(sampling, "max_tokens", "sampling.", 400.0)
    if temperature < 0 or longest < 1:
        wrong("sampling", "sampling.temperature is 0 or more, and sampling.max_tokens is 1 or more")
    judge = Judge(
        name=text(values, "name", needed=False) or path.stem,
        kind=kind,
        system=text(values, "system", needed=False),
        prompt=prompt,
        pattern=pattern,
        first=text(verdict, "first", "verdict.") if pair else "",
        second=text(verdict, "second", "verdict.") if pair else "",
        tie=text(verdict, "tie", "verdict.", needed=False) if pair else "",
        low=low,
        high=high,
        temperature=temperature,
        max_tokens=int(longest),
        title=text(values, "title", needed=False).strip(),
    )
    if problems:
        raise RecipeError(*problems)
    return judge


def _fields(prompt: str, kind: str) -> list[str]:
    """What is wrong with the fields in braces of a prompt."""
    try:
        there = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
    except ValueError as error:
        return [f"prompt has a brace that names nothing: {error}; a brace of its own is written {{{{ or }}}}"]
    allowed = (*FIELDS, *NEEDED[kind])
    out = [f"prompt names {{{name}}}, which is none of {', '.join(allowed)}" for name in there if name not in allowed]
    out += [
        f"prompt does not name {{{name}}}, without which there is nothing to judge"
        for name in NEEDED[kind]
        if name not in there
    ]
    return out
