"""Asks a chat template what it shows, by rendering conversations whose words are found again or not.

A template may refuse what it does not know, or silently leave it out: functions that the model never sees, an assistant
turn that is empty because its tool call was passed over. Both are told here before rows are rendered.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SYSTEM, _RESULT, _VALUE = "wordofsystem", "wordofresult", "wordofvalue"
_NAME, _DESCRIPTION, _PARAMETER = "nameofprobe", "wordofdescription", "wordofparameter"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": _DESCRIPTION,
        "parameters": {
            "type": "object",
            "properties": {_PARAMETER: {"type": "string", "description": "What."}},
            "required": [_PARAMETER],
        },
    },
}
_ASK = {"role": "user", "content": "Ask."}
_SAID = {"role": "assistant", "content": "Said."}
_ID = "abcDEF123"


def _call(identified: bool, count: int = 1, written: bool = False) -> dict[str, Any]:
    arguments: Any = {_PARAMETER: _VALUE}
    function = {"name": _NAME, "arguments": json.dumps(arguments) if written else arguments}
    call: dict[str, Any] = {"type": "function", "function": function}
    if identified:
        call["id"] = _ID
    return {"role": "assistant", "content": "", "tool_calls": [call] * count}


def _result(identified: bool) -> dict[str, Any]:
    return {
        "role": "tool",
        "name": _NAME,
        "content": _RESULT,
        **({"tool_call_id": _ID} if identified else {}),
    }


CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": [_ASK, _call(True), _result(True), _SAID], "tools": [TOOL]},
    {"messages": [{"role": "system", "content": _SYSTEM}, _ASK, _call(True)], "tools": [TOOL, TOOL]},
    {"messages": [_ASK, _call(True, 2), _result(True), _result(True), _SAID], "tools": [TOOL]},
    {"messages": [_ASK, {**_call(True), "content": "Said."}, _result(True)], "add_generation_prompt": True},
]
"""Conversations with tools that two templates must render alike to count as the same, where the model's own shows tools."""


@dataclass(frozen=True)
class Abilities:
    """What a template shows.

    Attributes:
        tools: `template` when functions, calls and results all appear, and of these only the calls are learned; else `text`.
        roles: Which of system, developer and tool appear (and are not learned).
        call_ids: Whether tool calls must carry ids.
    """

    tools: str
    roles: frozenset[str]
    call_ids: bool

    def both(self, other: Abilities) -> Abilities:
        """What this template and another one both show."""
        tools = "template" if self.tools == other.tools == "template" else "text"
        return Abilities(tools, self.roles & other.roles, self.call_ids or other.call_ids)


def abilities(tokenizer: Any, template: str, masked: bool = False, written: bool = False) -> Abilities:
    """What `template` shows.

    Args:
        masked: Whether it also has to mark rightly what is the assistant's.
        written: Whether it is enough that it shows arguments which come as JSON text, as servers hand them on (DeepSeek's
            templates take no others); rows have mappings.
    """

    def seen(*messages: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] | None = None) -> tuple[str, str]:
        try:
            text, spans = rendered(tokenizer, template, messages, tools, marked=masked)
        except Exception:  # a template raises whatever it likes
            return "", ""
        return text, "".join(text[a:b] for a, b in spans) if masked else ""

    roles = set()
    for role in ("system", "developer"):
        text, learned = seen({"role": role, "content": _SYSTEM}, _ASK, _SAID)
        if _SYSTEM in text and _SYSTEM not in learned:
            roles.add(role)
    defined, _ = seen(_ASK, _SAID, tools=[TOOL])
    tools, needed = "text", False
    for identified in (False, True):
        text, learned = seen(_ASK, _SAID, _result(identified), _SAID)
        if _RESULT in text and _RESULT not in learned:
            roles.add("tool")
        text, learned = seen(_ASK, _call(identified), _result(identified), _SAID, tools=[TOOL])
        if written and not text:
            text, learned = seen(_ASK, _call(identified, written=True), _result(identified), _SAID, tools=[TOOL])
        called = text.count(_NAME) > defined.count(_NAME) and _VALUE in (learned if masked else text)
        answered = _RESULT in text and _RESULT not in learned
        if called and answered and all(word in defined for word in (_NAME, _DESCRIPTION, _PARAMETER)):
            tools, needed = "template", identified
            break
    return Abilities(tools, frozenset(roles), needed)


def rendered(
    tokenizer: Any,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    prompt: bool = False,
    marked: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """`(text, character ranges marked as the assistant's)`; raises whatever the template raises.

    Args:
        prompt: Whether the text ends where an answer of the assistant would begin.
        marked: Whether the ranges are wanted; they are empty otherwise.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, spans = render_jinja_template(
        conversations=[[dict(message) for message in messages]],
        tools=[dict(tool) for tool in tools] if tools else None,
        chat_template=template,
        return_assistant_tokens_mask=marked,
        add_generation_prompt=prompt,
        **tokenizer.special_tokens_map,
    )
    return texts[0], list(spans[0]) if marked else []


def refusal(tokenizer: Any, template: str, row: Mapping[str, Any]) -> str | None:
    """Why `template` refuses `row`, one clause; None when it does not. Renders a few times: for rows that failed only.

    Args:
        row: `messages` (or `prompt` and `completion`) and `tools`, as they are given to the template.
    """
    messages = [dict(m) for m in (row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]])]
    tools = row.get("tools")
    said = _error(tokenizer, template, messages, tools)
    if said is None:
        return None
    if not messages:
        return "there are no messages"
    for role in dict.fromkeys(m["role"] for m in messages):
        if role == "assistant":
            continue
        probe = [{"role": role, "content": "x"}, _ASK, _SAID] if role in ("system", "developer") else [_ASK, _SAID]
        if role not in ("user", "system", "developer"):
            probe = [_ASK, _SAID, {"role": role, "content": "x", "name": "x", "tool_call_id": _ID}, _SAID]
        if _error(tokenizer, template, probe, None) is not None:
            place = 1 + next(i for i, m in enumerate(messages) if m["role"] == role)
            return f"the chat template takes no {role} message (message {place})"
    many = next((i for i, m in enumerate(messages) if len(m.get("tool_calls") or []) > 1), None)
    if many is not None:
        fewer = [{**m, "tool_calls": m["tool_calls"][:1]} if m.get("tool_calls") else m for m in messages]
        if _error(tokenizer, template, fewer, tools) is None:
            return f"the chat template takes one tool call a turn, message {many + 1} has {len(messages[many]['tool_calls'])}"
    turns = [(i, m["role"]) for i, m in enumerate(messages, 1) if m["role"] not in ("system", "developer")]
    if _error(tokenizer, template, [_ASK, _ASK, _SAID], None) is not None:  # user and assistant must take turns
        for (_, before), (place, role) in itertools.pairwise(turns):
            if (before == "assistant") == (role == "assistant"):
                return (
                    f"the chat template wants user and assistant in turn, messages {place - 1} and {place} "
                    f"are {'both ' + role if before == role else before + ' and ' + role}"
                )
        if turns and turns[0][1] == "assistant":
            return f"the chat template wants the user to begin, message {turns[0][0]} is the assistant's"
    late = next((i for i, m in enumerate(messages) if i and m["role"] in ("system", "developer")), None)
    if late is not None:
        rest = [m for i, m in enumerate(messages) if not i or m["role"] not in ("system", "developer")]
        if _error(tokenizer, template, rest, tools) is None:
            return f"the chat template takes a {messages[late]['role']} message only at the start, this is message {late + 1}"
    return f"the chat template refuses it: {said}"


def left_out(text: str, row: Mapping[str, Any]) -> str | None:
    """What of `row` does not stand in `text`, which a template made of it; one clause, None when everything does.

    A template passes over in silence what it does not know: a system message, an answer's thoughts, a role.
    """
    messages = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
    for place, message in enumerate(messages, 1):
        content = message.get("content")
        if isinstance(content, str) and not _stands(content.strip(), text):
            return f"the chat template leaves out message {place} ({message['role']}), or a part of it"
        for call in message.get("tool_calls") or []:
            if call["function"]["name"] not in text:
                return f"the chat template leaves out the tool call in message {place}"
    for tool in row.get("tools") or []:
        name = (tool.get("function") or tool).get("name", "")
        if name not in text:
            return f"the chat template leaves out the function {name}"
    return None


def _stands(words: str, text: str) -> bool:
    return words in text or json.dumps(words, ensure_ascii=False)[1:-1] in text  # as text, or inside of JSON


def _error(tokenizer: Any, template: str, messages: Sequence[Mapping[str, Any]], tools: Any) -> str | None:
    try:
        rendered(tokenizer, template, messages, tools)
    except Exception as error:  # a template raises whatever it likes
        return next(iter(str(error).splitlines()), "") or type(error).__name__
    return None
