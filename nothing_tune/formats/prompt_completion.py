"""Pairs: `{"prompt": ..., "completion": ...}`, both text or both lists of messages; only the completion is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nothing_tune.formats._calls import tools
from nothing_tune.formats._turns import conversation, learned, numbered
from nothing_tune.formats._values import BadRow, filled, kind, listed, others, words

NAME = "prompt-completion"
WANTS = "columns `prompt` and `completion`"
KIND = "prompt-completion"
OVER: tuple[str, ...] = ()


def matches(row: Mapping[str, Any]) -> bool:
    """Whether both columns are there, and at least one has something in it."""
    return "prompt" in row and "completion" in row and not (row["prompt"] is None and row["completion"] is None)


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row with both sides in the same form; `BadRow` where one is missing, empty, or of another form.

    A prompt of no characters is allowed: the completion is then learned from nothing. A prompt may be an object with
    `messages` and `tools`, as OpenAI's preference files have it.
    """
    prompt, completion, offered = row.get("prompt"), row.get("completion"), row.get("tools")
    if isinstance(prompt, Mapping) and "messages" in prompt:
        prompt, offered = prompt["messages"], prompt.get("tools") if offered is None else offered
    for name, value in (("prompt", prompt), ("completion", completion)):
        if value is None:
            raise BadRow(f"there is no `{name}`")
        if not isinstance(value, str | list | tuple):
            raise BadRow(f"`{name}` is {kind(value)}, neither text nor a list of messages")
    if isinstance(prompt, str) != isinstance(completion, str):
        raise BadRow(f"`prompt` is {kind(prompt)} and `completion` is {kind(completion)}: both must be the same")
    out: dict[str, Any] = others(row, ())
    if isinstance(prompt, str):
        out["prompt"] = words(prompt, "`prompt`")
        out["completion"] = filled(completion, "`completion`")
    else:
        out["prompt"], out["completion"] = _sides(listed(prompt, "`prompt`"), listed(completion, "`completion`"))
    if named := tools(offered):
        out["tools"] = named
    return [out]


def _sides(prompt: list[Any], completion: list[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not prompt:
        raise BadRow("`prompt` has no message")
    if not completion:
        raise BadRow("`completion` has no message")
    turns = [*numbered(prompt, "`prompt` message"), *numbered(completion, "`completion` message")]
    both = conversation(turns)
    answer = both[len(prompt) :]
    if answer[0]["role"] not in ("assistant", "tool"):
        raise BadRow(f"`completion` starts with a message of the {answer[0]['role']}, not the assistant's")
    learned(answer)
    return both[: len(prompt)], answer
