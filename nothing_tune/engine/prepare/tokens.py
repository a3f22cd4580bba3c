"""Canonical rows to tokens and labels: rendered by the chat template, tokenised in batches, masked to what is learned.

Token for token and label for label this is what TRL's SFTTrainer makes of the same rows (a test compares them); rows go
through in batches, each keeps its place in its file, and one that the template refuses is told instead of raised.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nothing_tune.engine import template_probes, tool_text
from nothing_tune.engine.chat_templates import Choice

IGNORED = -100
"""The label of a token that is not learned (torch's cross entropy passes it over)."""


@dataclass(frozen=True)
class Encoder:
    """How rows become tokens.

    Attributes:
        tokenizer: The model's tokenizer, a fast one.
        template: The template that training renders with, and how tools are rendered.
        assistant_only: Of `messages` (and of prompts and completions that are messages) only what the assistant says is learned.
        completion_only: Of prompt and completion only the completion is learned.
    """

    tokenizer: Any
    template: Choice
    assistant_only: bool
    completion_only: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row as tokens: `ids` and `labels` of the same length, a label `IGNORED` where nothing is learned.

    `answers` are the ranges `[start, end)` of tokens that the assistant says, in order; one for a completion or a text.
    `merged` says that the prompt by itself has other tokens at its end than in front of its completion: they are learned along.
    """

    ids: list[int]
    labels: list[int]
    answers: list[tuple[int, int]]
    merged: bool = False


def encode(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[Encoded | str]:
    """The rows as tokens, in order; for a row that cannot be rendered one clause that says why."""
    out: list[Encoded | str] = [""] * len(rows)
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(_shape(row), []).append(index)
    for shape, indices in groups.items():
        found = _ENCODERS[shape]([rows[i] for i in indices], encoder)
        for index, one in zip(indices, found, strict=True):
            out[index] = one
    return out


def render(row: Mapping[str, Any], encoder: Encoder) -> str:
    """The text of a row as the model sees it, special tokens included.

    Raises:
        ValueError: The chat template refuses the row; its message says why.
    """
    if "messages" in row:
        return _rendered(row["messages"], row, encoder)[0]
    if "prompt" in row and isinstance(row["prompt"], list):
        return _rendered([*row["prompt"], *row["completion"]], row, encoder)[0]
    return str(row["text"] if "text" in row else row["prompt"] + row["completion"])


def _shape(row: Mapping[str, Any]) -> str:
    if "messages" in row:
        return "messages"
    if "prompt" in row:
        return "prompt-messages" if isinstance(row["prompt"], list) else "prompt-text"
    return "text"


def _messages(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[Encoded | str]:
    rendered = [_try(row["messages"], row, encoder) for row in rows]
    texts = [r[0] for r in rendered if not isinstance(r, str)]
    batch = _tokenise(texts, encoder, special=False)
    out: list[Encoded | str] = []
    number = 0
    for row, one in zip(rows, rendered, strict=True):
        if isinstance(one, str):
            out.append(one)
            continue
        ids = batch["input_ids"][number]
        if not encoder.assistant_only:
            out.append(Encoded(ids, list(ids), [(0, len(ids))]))
        else:
            spans = _kept(one[1], row["messages"])
            if isinstance(spans, str):
                out.append(spans)
            else:
                answers = [_range(batch, number, start, end, encoder) for start, end in spans if end > start]
                out.append(_labelled(ids, [a for a in answers if a]))
        number += 1
    return out


def _prompt_messages(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[Encoded | str]:
    tried = [
        (_try([*row["prompt"], *row["completion"]], row, encoder), _try(row["prompt"], row, encoder, prompt=True))
        for row in rows
    ]
    good = [(whole, head) for whole, head in tried if not isinstance(whole, str) and not isinstance(head, str)]
    batch = _tokenise([whole[0] for whole, _ in good], encoder, special=False)
    starts = _tokenise([head[0] for _, head in good], encoder, special=False)["input_ids"]
    done: list[Encoded] = []
    for number, (whole, _) in enumerate(good):
        ids = batch["input_ids"][number]
        first = _common(starts[number], ids) if encoder.completion_only else 0
        if encoder.assistant_only:
            spans = [_range(batch, number, start, end, encoder) for start, end in whole[1] if end > start]
            done.append(_labelled(ids, [(max(a[0], first), a[1]) for a in spans if a and a[1] > first]))
        else:
            done.append(_labelled(ids, [(first, len(ids))], encoder.completion_only and first < len(starts[number])))
    ready = iter(done)
    return [next((t for t in pair if isinstance(t, str)), None) or next(ready) for pair in tried]


def _prompt_text(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[Encoded | str]:
    ends = [_ended(row["completion"], encoder) for row in rows]
    whole = _tokenise([row["prompt"] + end for row, end in zip(rows, ends, strict=True)], encoder)["input_ids"]
    if not encoder.completion_only:
        return [Encoded(ids, list(ids), [(0, len(ids))]) for ids in whole]
    starts = _tokenise([row["prompt"] for row in rows], encoder)["input_ids"]
    firsts = [_common(start, ids) for start, ids in zip(starts, whole, strict=True)]
    return [
        _labelled(ids, [(first, len(ids))], first < len(start))
        for first, start, ids in zip(firsts, starts, whole, strict=True)
    ]


def _text(rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[Encoded | str]:
    whole = _tokenise([_ended(row["text"], encoder) for row in rows], encoder)["input_ids"]
    return [Encoded(ids, list(ids), [(0, len(ids))]) for ids in whole]


_ENCODERS = {"messages": _messages, "prompt-messages": _prompt_messages, "prompt-text": _prompt_text, "text": _text}


def _ended(text: str, encoder: Encoder) -> str:
    end = str(encoder.tokenizer.eos_token or "")
    return text if text.endswith(end) else text + end


def _tokenise(texts: list[str], encoder: Encoder, special: bool = True) -> Any:
    if not texts:
        return {"input_ids": []}
    return encoder.tokenizer(texts, add_special_tokens=special, return_attention_mask=False)


def _try(
    messages: list[dict[str, Any]], row: Mapping[str, Any], encoder: Encoder, prompt: bool = False
) -> tuple[str, list[tuple[int, int]]] | str:
    try:
        return _rendered(messages, row, encoder, prompt)
    except Exception as error:  # a template raises whatever it likes; what it says is the reason
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        return _why(messages, row, encoder) or f"the chat template refuses it: {first}"


def _rendered(
    messages: list[dict[str, Any]], row: Mapping[str, Any], encoder: Encoder, prompt: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """`(text, character ranges that the template marks)` of a conversation; with `prompt` up to where the answer begins."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    messages, tools = tool_text.rendered_by(encoder.template, messages, tools)
    marked = encoder.assistant_only and not prompt
    texts, spans = render_jinja_template(
        conversations=[[{k: v for k, v in m.items() if v is not None and k != "weight"} for m in messages]],
        tools=tools or None,
        chat_template=encoder.template.text,
        return_assistant_tokens_mask=marked,
        add_generation_prompt=prompt,
        **{**encoder.tokenizer.special_tokens_map, **(row.get("chat_template_kwargs") or {})},
    )
    return texts[0], list(spans[0]) if marked else []


def _why(messages: list[dict[str, Any]], row: Mapping[str, Any], encoder: Encoder) -> str | None:
    """Why the template refuses a conversation, in words of its own; None when that cannot be told."""
    tools = row.get("tools")
    with contextlib.suppress(Exception):  # what is wrong may be wrong here as well
        given, tools = tool_text.rendered_by(
            encoder.template, messages, json.loads(tools) if isinstance(tools, str) else tools
        )
        return template_probes.refusal(
            encoder.tokenizer, str(encoder.template.text), {"messages": given, "tools": tools}
        )
    return None


def _kept(spans: list[tuple[int, int]], messages: list[dict[str, Any]]) -> list[tuple[int, int]] | str:
    """The marked ranges without those of messages whose `weight` is 0; why not, where they cannot be told apart."""
    said = [m for m in messages if m["role"] == "assistant"]
    if all(m.get("weight", 1) != 0 for m in said):
        return spans
    if len(spans) != len(said):
        return f"`weight` is 0 in a message, and the chat template marks {len(spans)} places for {len(said)} messages"
    return [span for span, message in zip(spans, said, strict=True) if message.get("weight", 1) != 0]


def _range(batch: Any, number: int, start: int, end: int, encoder: Encoder) -> tuple[int, int] | None:
    """The tokens of the characters `[start, end)`: those that begin, hold or end them. None when no token stands there.

    A special token that swallows the white space behind it (Phi-3's `<|assistant|>`) holds none of them.
    """
    first = last = None
    begin = start
    while start < end and (first := batch.char_to_token(number, start)) is None:
        start += 1  # a character that belongs to no token, such as a space that the tokenizer drops
    while end > start and (last := batch.char_to_token(number, end - 1)) is None:
        end -= 1
    if first is None or last is None:
        return None
    if (
        batch.token_to_chars(number, first).start < begin
        and batch["input_ids"][number][first] in encoder.tokenizer.added_tokens_decoder
    ):
        first += 1
    return (first, last + 1) if last >= first else None


def _labelled(ids: list[int], answers: list[tuple[int, int]], merged: bool = False) -> Encoded:
    labels = [IGNORED] * len(ids)
    for start, end in answers:
        labels[start:end] = ids[start:end]
    return Encoded(ids, labels, answers, merged)


def _common(one: list[int], other: list[int]) -> int:
    """Length of the longest common beginning: where a completion starts, even if tokens merge across the boundary."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length
