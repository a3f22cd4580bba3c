"""A chat template as a Go template, for Ollama: inferred from what the model's own template renders, and compared with it.

A chat template is linear where each message is written as a prefix, its words and a suffix that depend on its role alone. Its
pieces are found by rendering conversations of words that are looked for in the text. What is not linear is told as such.

What Ollama does (its template/template.go and parser/parser.go, 2025-11 to 2026): the template is Go's text/template; `.Messages`
has all messages, system messages too, where neighbours of the same role are one; `.System` is all system messages together;
the tokenizer adds the BOS token where the GGUF says so (`tokenizer.ggml.add_bos_token`), so that the template must not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

Message = Mapping[str, Any]


class Render(Protocol):
    """Renders with the model's own chat template."""

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), answer: bool = True
    ) -> str | None:
        """The text of `messages`; with `answer` up to where the assistant is to begin. None where the template refuses."""


OWN, FIRST, LAST, NONE = "own", "first-user", "last-user", "none"
"""Where the system prompt stands: a turn of its own, inside of the first or of the last message of the user, or nowhere."""
_S, _U, _A = (
    "wordofsystem",
    ("wordofuserone", "wordofusertwo", "wordofuserthree"),
    ("wordofanswerone", "wordofanswertwo"),
)
_NAME, _RESULT = ("nameofprobe", "nameofother"), ("wordofresult", "wordofother")
_TOOLS: tuple[dict[str, Any], ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name, "description": "What it does.",
            "parameters": {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]},
        },
    }
    for name in _NAME
)  # fmt: skip
_ARGUMENTS = ({"key": "valueofprobe"}, {"key": "valueofother"})


@dataclass(frozen=True)
class Tools:
    """How functions are written, inside of the system turn; JSON comes between the pieces.

    Attributes:
        bare: What opens the system turn where there is no system prompt, a default one included.
        said: What follows the words of a system prompt.
        before: From there, or from `bare`, to the first function.
        between: Between two functions.
        after: From the last function to the end of the system turn.
        call: Before a name, between name and arguments, after the arguments. What opens and closes the turn is the assistant's.
        calls: Between two calls, and between what the assistant says and its first call.
        results: What opens and closes a row of results.
        result: Before and after the words of one.
        lines: Whether the template writes a function as JSON on several lines; Ollama writes one line.
    """

    bare: str
    said: str
    before: str
    between: str
    after: str
    call: tuple[str, str, str]
    calls: str
    results: tuple[str, str]
    result: tuple[str, str]
    lines: bool = False


@dataclass(frozen=True)
class Pieces:
    """A linear chat template.

    Attributes:
        bos: The BOS token as text where the template writes it; else empty.
        default: What follows it where there is no system prompt: a default one, or nothing.
        place: Where the system prompt stands: `own`, `first-user`, `last-user` or `none`.
        system: Before and after its words.
        user: Before and after the user's words.
        assistant: Before and after the assistant's words.
        generation: What follows the last message where the assistant is to answer.
        trims: Whether the template takes spaces and newlines off both ends of what people say; Ollama's cannot.
        tools: How functions are written; None where the template shows none or its way is not linear.
    """

    bos: str
    default: str
    place: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    trims: bool = False
    tools: Tools | None = None


CONVERSATIONS: tuple[tuple[Message, ...], ...] = tuple(
    tuple({"role": role, "content": words} for role, words in one)
    for one in (
        [("user", "One, please.")],
        [("user", "Grüße, 世界! {{ x }} \"\"\" \\n {% if %} 👋🏽 <b>&amp;</b>")],
        [("user", "One"), ("assistant", "Here is one."), ("user", "Two?\nOn two lines.")],
        [("system", "Be brief."), ("user", "One")],
        [("system", "Be\n\nbrief."), ("user", "One"), ("assistant", "1"), ("user", "Two"), ("assistant", "2"), ("user", "3")],
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e"), ("assistant", "f"), ("user", "g")],
    )
)  # fmt: skip
"""Conversations on which pieces and the model's own template must write the very same text."""


class NotLinear(ValueError):
    """The chat template cannot be written as pieces; the text says why, one clause."""


def pieces(render: Render, bos: str = "") -> Pieces:
    """The pieces of a chat template, compared with it on `CONVERSATIONS`.

    Args:
        render: Renders with the model's own template.
        bos: The BOS token as text; empty for none.

    Raises:
        NotLinear: It is not linear, or writes other text than its pieces on a conversation.
    """
    one = _split(render([_user(0)]), [_U[0]])
    many = _split(render([_user(0), _said(0), _user(1), _said(1), _user(2)]), [_U[0], _A[0], _U[1], _A[1], _U[2]])
    if one is None or many is None:
        raise NotLinear("it does not write what is said once and in order")
    head, to_answer = one
    if many[0] != head or many[1] != many[3] or many[2] != many[4] or many[5] != to_answer:
        raise NotLinear("it writes earlier turns otherwise than the last one")
    asked = _split(render([_user(0)], answer=False), [_U[0]])
    user_after = asked[1] if asked else common_prefix(many[1], to_answer)
    if not (many[1].startswith(user_after) and to_answer.startswith(user_after)):
        user_after = common_prefix(many[1], to_answer)
    answered = _split(render([_user(0), _said(0)], answer=False), [_U[0], _A[0]])
    said_after = answered[2] if answered and many[2].startswith(answered[2]) else ""
    user_before = many[2][len(said_after) :]
    if not head.endswith(user_before):
        user_before = common_suffix(head, many[2])
        said_after = many[2][: len(many[2]) - len(user_before)]
    start = head[: len(head) - len(user_before)]
    bos = bos if bos and start.startswith(bos) else ""
    place, system = _system(render, bos, user_before, to_answer)
    trims = f" {_U[0]} " not in (render([{"role": "user", "content": f" {_U[0]} "}]) or "")
    found = Pieces(
        bos=bos, default=start[len(bos) :], place=place, system=system, user=(user_before, user_after),
        assistant=(many[1][len(user_after) :], said_after), generation=to_answer[len(user_after) :], trims=trims,
    )  # fmt: skip
    for conversation in CONVERSATIONS:
        if found.place == NONE and conversation[0]["role"] == "system":
            continue
        if rendered(found, conversation) != render(conversation):
            raise NotLinear(f"its pieces write another text than it does after {conversation[-1]['content']!r}")
    return replace(found, tools=_tools(render, found)) if found.place == OWN else found


def _user(number: int) -> Message:
    return {"role": "user", "content": _U[number]}


def _said(number: int) -> Message:
    return {"role": "assistant", "content": _A[number]}


def _split(text: str | None, words: Sequence[str]) -> list[str] | None:
    """What stands around `words` in `text`, one more than them; None where one is missing, repeated or out of order."""
    if text is None or any(text.count(word) != 1 for word in words):
        return None
    out = []
    for word in words:
        before, found, text = text.partition(word)
        if not found:
            return None
        out.append(before)
    return [*out, text]


def common_prefix(one: str, other: str) -> str:
    """The text with which both begin."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return one[:shared]


def common_suffix(one: str, other: str) -> str:
    """The text with which both end."""
    return common_prefix(one[::-1], other[::-1])[::-1]


def _system(render: Render, bos: str, user: str, to_answer: str) -> tuple[str, tuple[str, str]]:
    """Where the system prompt stands, and what stands around it."""
    said = {"role": "system", "content": _S}
    short = render([said, _user(0)])
    if short is None or _S not in short:
        return NONE, ("", "")
    first = _split(short, [_S, _U[0]])
    if first is None or not first[0].startswith(bos) or first[2] != to_answer:
        raise NotLinear("it does not write the system prompt before what the user says")
    before, after = first[0][len(bos) :], first[1]
    longer = render([said, _user(0), _said(0), _user(1)]) or ""
    if 0 <= longer.find(_U[0]) < longer.find(_S):
        if not before.startswith(user):
            raise NotLinear("it writes the system prompt before the last turn of the user")
        return LAST, (before[len(user) :], after)
    if after.endswith(user):
        return OWN, (before, after[: len(after) - len(user)])
    if before.startswith(user):
        return FIRST, (before[len(user) :], after)
    raise NotLinear("it writes the first turn of the user otherwise after a system prompt")


def _tools(render: Render, found: Pieces) -> Tools | None:
    """How functions, calls and results are written; None where they are not shown, or not in a way that these pieces can write."""
    for dumps in (_line, _lines):
        written = _tools_as(render, found, dumps)
        if written is None:
            continue
        whole = replace(found, tools=written)
        conversations = (
            ([_user(0)], 1), ([_user(0)], 2), ([{"role": "system", "content": _S}, _user(0)], 2),
            ([_user(0), _calls(1), _result(0)], 1), ([_user(0), _calls(2), _result(0), _result(1)], 2),
            ([_user(0), _calls(1), _result(0), _said(0), _user(1)], 2),
        )  # fmt: skip
        if all(
            rendered(whole, messages, _TOOLS[:count], dumps) == render(messages, _TOOLS[:count])
            for messages, count in conversations
        ):
            return written
    return None


def _tools_as(render: Render, found: Pieces, dumps: Callable[[Any], str]) -> Tools | None:
    """The pieces of tools, where JSON is written by `dumps`; not yet compared."""
    shown = [dumps(tool) for tool in _TOOLS]
    user = found.user[0]
    full = _split(render([{"role": "system", "content": _S}, _user(0)], _TOOLS), [_S, *shown, _U[0]])
    bare = _split(render([_user(0)], _TOOLS), [*shown, _U[0]])
    if full is None or bare is None or full[0] != found.bos + found.system[0] or not full[3].endswith(user):
        return None
    if not bare[0].startswith(found.bos):
        return None
    before = common_suffix(bare[0][len(found.bos) :], full[1])
    said = (render([_user(0), _calls(1), _result(0)], _TOOLS) or "").partition(_U[0])[2]
    twice = (render([_user(0), _calls(2), _result(0), _result(1)], _TOOLS) or "").partition(_U[0])[2]
    arguments = [_line(value) for value in _ARGUMENTS]
    one = _split(said, [_NAME[0], arguments[0], _RESULT[0]])
    two = _split(twice, [_NAME[0], arguments[0], _NAME[1], arguments[1], _RESULT[0], _RESULT[1]])
    opened = found.user[1] + found.assistant[0]
    if one is None or two is None or not one[0].startswith(opened) or not one[3].endswith(found.generation):
        return None
    before_name = one[0][len(opened) :]
    if not two[2].endswith(before_name):
        return None
    between = two[2][: len(two[2]) - len(before_name)]
    after_arguments = common_prefix(between, one[2])
    rest = one[2][len(after_arguments) :]
    closing = one[3][: len(one[3]) - len(found.generation)]
    result_after = common_prefix(two[5], closing)
    result_before = two[5][len(result_after) :]
    if not rest.startswith(found.assistant[1]) or not rest.endswith(result_before):
        return None
    return Tools(
        bare=bare[0][len(found.bos) : len(bare[0]) - len(before)], said=full[1][: len(full[1]) - len(before)], before=before,
        between=full[2],
        after=full[3][: len(full[3]) - len(user)], call=(before_name, one[1], after_arguments),
        calls=between[len(after_arguments) :],
        results=(rest[len(found.assistant[1]) : len(rest) - len(result_before)], closing[len(result_after) :]),
        result=(result_before, result_after), lines=dumps is _lines,
    )  # fmt: skip


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _lines(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=4)


def _calls(count: int) -> Message:
    calls = [
        {"type": "function", "id": f"abcDEF12{i}", "function": {"name": _NAME[i], "arguments": _ARGUMENTS[i]}}
        for i in range(count)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _result(number: int) -> Message:
    return {"role": "tool", "name": _NAME[number], "content": _RESULT[number], "tool_call_id": f"abcDEF12{number}"}


def rendered(
    found: Pieces,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
    dumps: Callable[[Any], str] = _line,
) -> str:
    """The text of `messages` as the Go template writes it, with the BOS token, up to where the assistant is to go on.

    Args:
        tools: Functions, where `found.tools` says how they are written.
        dumps: Writes a function as JSON.
    """
    known = found.tools if tools else None
    words = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    out = [found.bos]
    if known:
        out += [f"{found.system[0]}{words}{known.said}" if words else known.bare, known.before]
        out += [known.between.join(dumps(tool) for tool in tools), known.after]
    elif words and found.place == OWN:
        out.append(f"{found.system[0]}{words}{found.system[1]}")
    elif not words or found.place == NONE:
        out.append(found.default)
    inner = f"{found.system[0]}{words}{found.system[1]}" if words and found.place in (FIRST, LAST) else ""
    users = [i for i, m in enumerate(messages) if m["role"] == "user"]
    at = None if not users else users[0] if found.place == FIRST else len(messages) - 1
    for number, message in enumerate(messages):
        role, last = message["role"], number == len(messages) - 1
        content = str(message.get("content") or "")
        if role == "user":
            out.append(f"{found.user[0]}{inner if number == at else ''}{content}{found.user[1]}")
        elif role == "assistant":
            calls = [c["function"] for c in message.get("tool_calls") or []] if found.tools else []
            out += [found.assistant[0], content]
            if calls and found.tools:
                first, middle, end = found.tools.call
                written = [f"{first}{c['name']}{middle}{_line(c['arguments'])}{end}" for c in calls]
                out += [found.tools.calls if content else "", found.tools.calls.join(written)]
            out.append("" if last else found.assistant[1])
        elif role == "tool" and found.tools:
            before = number and messages[number - 1]["role"] == "tool"
            after = not last and messages[number + 1]["role"] == "tool"
            out += ["" if before else found.tools.results[0], found.tools.result[0], content, found.tools.result[1]]
            out.append("" if after else found.tools.results[1])
        if last and role != "assistant":
            out.append(found.generation)
    return "".join(out)


def template(found: Pieces, adds_bos: bool) -> str:
    """The Go template.

    Args:
        adds_bos: Whether the tokenizer adds the BOS token by itself, so that the template leaves it out.
    """
    tools, system, place = found.tools, found.system, found.place
    out = ["" if adds_bos else text(found.bos)]
    own = f"{text(system[0])}{{{{ .System }}}}{text(system[1])}"
    plain = f"{{{{ if .System }}}}{own if place == OWN else ''}{{{{ else }}}}{text(found.default)}{{{{ end }}}}"
    if place == NONE:
        plain = text(found.default)
    elif place != OWN and not found.default:
        plain = ""
    if tools:
        each = f"{{{{ range $i, $tool := .Tools }}}}{{{{ if $i }}}}{text(tools.between)}{{{{ end }}}}{{{{ json $tool }}}}{{{{ end }}}}"
        opened = f"{{{{ if .System }}}}{text(system[0])}{{{{ .System }}}}{text(tools.said)}{{{{ else }}}}{text(tools.bare)}{{{{ end }}}}"
        plain = plain.replace("{{ if .System }}", "{{ else if .System }}", 1)
        plain = f"{{{{ if .Tools }}}}{opened}{text(tools.before)}{each}{text(tools.after)}{plain}"
    out.append(plain)
    if place == FIRST:
        out.append("{{ $first := true }}")
    if tools:
        out.append('{{ $before := "" }}')
    out.append("{{ range $i, $message := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}")
    inner = ""
    if place in (FIRST, LAST):
        when = "$first" if place == FIRST else "$last"
        inner = f"{{{{ if and {when} $.System }}}}{text(system[0])}{{{{ $.System }}}}{text(system[1])}{{{{ end }}}}"
        inner += "{{ $first = false }}" if place == FIRST else ""
    closes = ""
    if (
        tools
    ):  # what ends a row of results comes before the next message that is none, as the row's end is not known before
        end = text(tools.results[1])
        closes = end and f'{{{{ if and (eq $before "tool") (ne .Role "tool") }}}}{end}{{{{ end }}}}'
    out.append(
        f'{closes}{{{{ if eq .Role "user" }}}}{text(found.user[0])}{inner}{{{{ .Content }}}}{text(found.user[1])}'
    )
    out.append(f'{{{{ else if eq .Role "assistant" }}}}{text(found.assistant[0])}{{{{ .Content }}}}')
    if tools:
        first, middle, end = (text(piece) for piece in tools.call)
        if tools.calls:
            out.append(f"{{{{ if and .Content .ToolCalls }}}}{text(tools.calls)}{{{{ end }}}}")
        more = (
            f"{{{{ if gt (len (slice $message.ToolCalls $j)) 1 }}}}{text(tools.calls)}{{{{ end }}}}"
            if tools.calls
            else ""
        )
        out.append(
            f"{{{{ if .ToolCalls }}}}{{{{ range $j, $call := .ToolCalls }}}}{first}{{{{ .Function.Name }}}}{middle}"
        )
        out.append(f"{{{{ json .Function.Arguments }}}}{end}{more}{{{{ end }}}}{{{{ end }}}}")
    out.append(f"{{{{ if not $last }}}}{text(found.assistant[1])}{{{{ end }}}}" if found.assistant[1] else "")
    if tools:
        opens = f'{{{{ if ne $before "tool" }}}}{text(tools.results[0])}{{{{ end }}}}'
        shown = f"{text(tools.result[0])}{{{{ .Content }}}}{text(tools.result[1])}"
        ends = f"{{{{ if $last }}}}{text(tools.results[1])}{{{{ end }}}}" if tools.results[1] else ""
        out.append(f'{{{{ else if eq .Role "tool" }}}}{opens}{shown}{ends}')
    out.append("{{ end }}")
    if found.generation:
        out.append(f'{{{{ if and $last (ne .Role "assistant") }}}}{text(found.generation)}{{{{ end }}}}')
    out.append("{{ $before = .Role }}" if tools else "")
    out.append("{{ end }}")
    return "".join(out)


def text(words: str) -> str:
    """Text of a Go template that writes `words`: braces and what a Modelfile would lose or take for its end are written as Go's strings."""
    out, plain = [], ""
    for index, char in enumerate(words):
        brace = char in "{}" and char in (words[index - 1 : index], words[index + 1 : index + 2])
        if (
            brace
            or (char == '"' and words[index - 1 : index + 2].count('"') > 1)
            or not (char.isprintable() or char in "\n\t")
        ):
            out.append(plain)
            plain = ""
            out.append(f"{{{{ {json.dumps(char)} }}}}")
        else:
            plain += char
    return "".join([*out, plain])
