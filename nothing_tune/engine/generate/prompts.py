"""Reads prompts: rows with a column of questions, or conversations that wait for an answer; some bring an authentic one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nothing_tune.data import sources
from nothing_tune.engine.generate.questions import Message, Prompt
from nothing_tune.errors import Problem, UsageError

MOST_SHOWN = 10
ROLES = ("system", "developer", "user", "assistant")


class BadPrompt(Exception):
    """A row is no prompt; the text says why as one clause."""


def read(settings: dict[str, Any]) -> list[Prompt]:
    """Every prompt of `generate.prompts`, in the order of the sources.

    Raises:
        UsageError: A source is missing, holds no rows, or a row is no prompt.
    """
    found: list[Prompt] = []
    wrong: list[Problem] = []
    bad = seen = 0
    for place, row in rows(settings["prompts"]):
        seen += 1
        try:
            if isinstance(row, str):
                raise BadPrompt(row)
            found.append(prompt(row, settings, len(found), place))
        except BadPrompt as why:
            bad += 1
            if len(wrong) < MOST_SHOWN:
                wrong.append(Problem(f"{place}: {why}"))
    if bad:
        of = f"{bad} of {seen} rows are" if bad > 1 else f"one of {seen} rows is"
        raise UsageError(
            Problem(f"{of} no prompt", key="generate.prompts", hint=f"mend the rows, or set {_columns(settings)}"),
            *wrong,
        )
    if not found:
        raise UsageError(
            Problem("there is no prompt in generate.prompts", key="generate.prompts", hint="name a file with rows")
        )
    return found


def rows(value: Any) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """`(place, raw row)` of every source in turn; a text says what is wrong with a row. `UsageError` where one is missing."""
    for source in sources.parse(value, {}, "generate.prompts"):
        yield from sources.raw(source, "generate.prompts")


def prompt(row: dict[str, Any], settings: dict[str, Any], index: int, place: str) -> Prompt:
    """The prompt of a row. `BadPrompt` when it has none, or no group where a column names the group."""
    column, answer_column = settings["prompt"], settings.get("answer")
    asked, answer = row.get(column), None
    used = {column, answer_column, "messages"}
    if isinstance(asked, str) and asked.strip():
        messages: tuple[Message, ...] = ({"role": "user", "content": asked.strip()},)
    elif isinstance(asked, list):
        messages, answer = _conversation(asked, column)
    elif isinstance(row.get("messages"), list):
        messages, answer = _conversation(row["messages"], "messages")
    elif column in row:
        raise BadPrompt(f"its `{column}` is {'empty' if asked is None or asked == '' else 'no text'}")
    else:
        has = ", ".join(f"`{name}`" for name in list(row)[:6]) or "nothing"
        raise BadPrompt(f"it has no `{column}` and no `messages`, only {has}")
    authentic = row.get(answer_column) if answer_column else None
    if authentic is not None and not isinstance(authentic, str):
        raise BadPrompt(f"its `{answer_column}` is no text")
    if authentic and authentic.strip():
        answer = authentic.strip()
    by = settings.get("group_by")
    group = row.get(by) if by else ""
    if by and (group is None or isinstance(group, dict | list) or str(group).strip() == ""):
        raise BadPrompt(f"it has no `{by}`, which generate.group_by names")
    columns = {k: v for k, v in row.items() if k not in used and isinstance(v, str | int | float | bool)}
    return Prompt(index, place, str(group).strip(), messages, columns, answer)


def _conversation(value: list[Any], column: str) -> tuple[tuple[Message, ...], str | None]:
    """`(messages up to the user's last one, the answer that follows it or None)`."""
    messages: list[Message] = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadPrompt(f"message {number} of its `{column}` has no role that a prompt may have")
        if not isinstance(message.get("content"), str):
            raise BadPrompt(f"message {number} of its `{column}` has no text")
        messages.append({"role": message["role"], "content": message["content"]})
    answer = None
    if messages and messages[-1]["role"] == "assistant":
        answer = str(messages.pop()["content"]).strip() or None
    if not messages or messages[-1]["role"] != "user":
        raise BadPrompt(f"its `{column}` does not end with a question of the user")
    return tuple(messages), answer


def _columns(settings: dict[str, Any]) -> str:
    return f"generate.prompt, the column of prompts, which is {settings['prompt']}"
