"""The texts on which an export and its run are compared: rows of the run's own data, and a fixed set of hard cases."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.engine import prepare, template_probes
from nothing_tune.engine.export import stops
from nothing_tune.engine.prepare.tokens import IGNORED
from nothing_tune.plan.model import Plan

POSITIONS = 512
"""Positions at which two models are compared, in all."""
BYTES = 150 * 10**6
"""Bytes that the log-probabilities of one model may take: a vocabulary of 128,000 tokens gets 292 positions."""
LENGTH = 512
"""Longest text, in tokens."""
OWN = 8
"""Rows of the run's own data."""
SHARE = 0.6
"""Share of the positions that these may take."""

_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Says what the weather is.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
_LONG = " ".join(
    f"On day {n} the boat called {n * 37 % 101} brought {n * 13 % 29} crates of salt." for n in range(1, 19)
)
CONVERSATIONS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "Good morning."},
            {"role": "assistant", "content": "Good morning to you."},
        ]
    },
    {
        "messages": [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": "Perché il mare è salato? 海 · море · θάλασσα · 🌊"},
            {"role": "assistant", "content": "Perché i fiumi portano sali dalle rocce: così da milioni d'anni, piano…"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Write a function that adds two numbers."},
            {
                "role": "assistant",
                "content": "```python\ndef add(a: int, b: int) -> int:\n\treturn a + b  # 1+1 == 2\n```",
            },
            {"role": "user", "content": "And now 3.14 + 1,000?"},
            {"role": "assistant", "content": "1003.14"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "What is the weather in Genova?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "type": "function",
                        "id": "abcDEF123",
                        "function": {"name": "weather", "arguments": {"city": "Genova", "days": 1}},
                    }
                ],
            },
            {
                "role": "tool",
                "name": "weather",
                "tool_call_id": "abcDEF123",
                "content": '{"sky": "clear", "degrees": 21}',
            },
            {"role": "assistant", "content": "Clear, 21 degrees."},
        ],
        "tools": [_WEATHER],
    },
    {
        "messages": [
            {"role": "user", "content": f"{_LONG} Which boat came last?"},
            {"role": "assistant", "content": "The boat 60."},
        ]
    },
]
"""The fixed conversations; a template that refuses one (system, tools) is not asked for it."""
TEXTS = (
    "Hello, world!", " leading and trailing  ", "line\n\n\nbreaks\r\n\tand tabs", "1 22 333 4444 3.14159 1,000,000 2026-11-21",
    "città naïve Übermut œuvre ½ Ελλάδα Привет 日本語 한국어 العربية עברית हिन्दी", "🙂👩‍👩‍👧‍👦🇮🇹 é", "cafe\u0301 A\u030angstro\u0308m",
    "don't we're I'LL it's",
    "def f(x):\n    return {'a': [x ** 2, None]}  # !=<>", "https://example.org/?q=a%20b&c=1#d", "a" * 40, "  \n ",
)  # fmt: skip
"""The fixed texts whose tokens must be the same wherever they are made."""


@dataclass(frozen=True)
class Prompt:
    """One text, read token by token.

    Attributes:
        ids: Its tokens.
        places: The positions that are compared: what is said after token `place`.
        answer: Position of the first token of the (first) answer; None where there is none.
        ends: Position of the token that ends that answer; None where the text does not have it.
        own: Whether it is of the run's own data.
    """

    ids: tuple[int, ...]
    places: tuple[int, ...]
    answer: int | None
    ends: int | None
    own: bool

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Prompt:
        """From plain data."""
        return cls(tuple(data["ids"]), tuple(data["places"]), data["answer"], data["ends"], data["own"])


def prompts(run: Run, plan: Plan, tokenizer: Any, base_tokenizer: Any, vocabulary: int) -> tuple[list[Prompt], str]:
    """The texts, and why the run's own data is not among them; empty where it is.

    Args:
        tokenizer: The run's, which renders the fixed conversations.
        base_tokenizer: The base model's, from which the run's data was prepared; tokens may be added to it.
        vocabulary: Width of a row of log-probabilities.
    """
    room = max(64, min(POSITIONS, BYTES // (4 * vocabulary)))
    ends = set(stops.stops(tokenizer))
    own: list[Prompt] = []
    why = ""
    try:
        for ids, labels in _rows(run, plan, base_tokenizer):
            if max(ids) < vocabulary and len(ids) > 1:
                own.append(_own(ids, labels, ends, max(8, int(room * SHARE) // OWN)))
            if len(own) == OWN:
                break
    except Exception as error:  # the data may be gone, moved or changed: the fixed set is left
        own = []
        why = next(iter(str(error).splitlines()), type(error).__name__).removeprefix("error: ")
    if not own and not why:
        why = "no row of it has tokens"
    fixed = [ids for ids in _fixed(tokenizer) if len(ids) > 1 and max(ids) < vocabulary]
    left = room - sum(len(p.places) for p in own)
    out = list(own)
    for number, ids in enumerate(fixed):
        each = left // (len(fixed) - number)
        places = _spread(range(len(ids) - 1), each)
        left -= len(places)
        out.append(Prompt(tuple(ids), places, None, None, False))
    return out, why


def rendered(tokenizer: Any, template: str | None, row: dict[str, Any], prompt: bool = False) -> str | None:
    """A conversation as text; None where there is no template, or it refuses."""
    if not template:
        return None
    try:
        return template_probes.rendered(tokenizer, template, row["messages"], row.get("tools"), prompt)[0]
    except Exception:  # a template raises whatever it likes
        return None


def _rows(run: Run, plan: Plan, tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens and labels of rows of the run: those held out first."""
    created = run.status().get("created")
    date = time.strftime("%d %b %Y", time.localtime(float(created))) if created else None
    evaluated = str(plan.training.get("eval_strategy") or "no") != "no"
    found = prepare.load(plan, tokenizer, evaluated, date)
    for data in (found.eval, found.train):
        if data is None:
            continue
        for index in range(min(OWN, len(data))):
            entry = data[index]
            end = entry["seq_lengths"][0] if "seq_lengths" in entry else len(entry["input_ids"])
            yield list(entry["input_ids"][:end]), list(entry["labels"][:end])


def _own(ids: Sequence[int], labels: Sequence[int], ends: set[int], room: int) -> Prompt:
    ids, labels = ids[:LENGTH], labels[:LENGTH]
    learned = [i for i, label in enumerate(labels) if label != IGNORED and i]
    answer = learned[0] if learned and IGNORED in labels else None
    end = next((i for i in learned if ids[i] in ends), None) if answer is not None else None
    said = [i - 1 for i in learned] or list(range(len(ids) - 1))
    places = list(_spread(said, room))
    if end is not None and end - 1 not in places:
        places[-1] = end - 1
    rest = [i for i in range(len(ids) - 1) if i not in set(said)]
    places += _spread(rest, room - len(places))
    return Prompt(tuple(ids), tuple(sorted(set(places))), answer, end, True)


def _fixed(tokenizer: Any) -> Iterator[list[int]]:
    template = stops.own_template(tokenizer)
    for row in CONVERSATIONS:
        text = rendered(tokenizer, template, row)
        if text is not None:
            yield tokenizer(text, add_special_tokens=False)["input_ids"][:LENGTH]
        else:
            words = [str(m["content"]) for m in row["messages"] if m["content"]]
            yield tokenizer("\n".join(words))["input_ids"][:LENGTH]


def _spread(places: Sequence[int], count: int) -> tuple[int, ...]:
    """At most `count` of `places`, evenly, the first and the last among them."""
    if count <= 0:
        return ()
    if len(places) <= count:
        return tuple(places)
    if count == 1:
        return (places[-1],)
    return tuple(places[i * (len(places) - 1) // (count - 1)] for i in range(count))


def as_key(found: Sequence[Prompt]) -> str:
    """The texts as one line of JSON, for a digest."""
    return json.dumps([p.to_json() for p in found], sort_keys=True)
