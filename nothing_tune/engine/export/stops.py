"""Which tokens end an answer: found by rendering conversations with the chat template, not by name.

The token that a template writes after the assistant's words is what the model learned to end with; a server that does not stop
there goes on for ever. Beside it stand the tokenizer's end of text and what the model's generation config names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.engine import template_probes

_SAID, _NEXT = "wordofanswer", "wordofnextturn"
_CALLED = "wordofargument"
_ASK = {"role": "user", "content": "Ask."}
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
_CALL: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "id": "abcDEF123", "function": {"name": "probe", "arguments": {"word": _CALLED}}}
    ],
}


@dataclass(frozen=True)
class End:
    """How a chat template ends an assistant's turn.

    Attributes:
        tokens: Ids of the tokens that follow an answer, and a tool call where another one does; empty where none does.
        text: Plain text that follows an answer where no token comes first, such as the mark of the next turn; usually empty.
    """

    tokens: tuple[int, ...]
    text: str


def end_of_turn(tokenizer: Any, template: str | None = None) -> End:
    """What `template` (the tokenizer's own by default) writes after an assistant's message.

    The last message of a conversation counts first, for that is where an answer is generated; where nothing follows it, the
    same message before another user turn tells what the model would begin next.
    """
    template = template or own_template(tokenizer)
    if not template:
        return End((), "")
    known = _added(tokenizer)
    last = _tail(tokenizer, template, [_ASK, _said(_SAID)], _SAID)
    before = _tail(tokenizer, template, [_ASK, _said(_SAID), {"role": "user", "content": _NEXT}], _SAID)
    before = before.split(_NEXT)[0] if before and _NEXT in before else None
    tokens: list[int] = []
    text = ""
    for tail in (last, before):
        if not tail or not tail.strip():
            continue
        place, token = _first(tail, known)
        plain = tail if token is None else tail[:place]
        text = text or _line(plain)
        if token is not None:
            tokens.append(token)
            break
    called = _tail(tokenizer, template, [_ASK, _CALL], _CALLED, [_TOOL])
    if called and tokens:
        ids = {i for i, added in tokenizer.added_tokens_decoder.items() if added.special} | set(
            tokenizer.all_special_ids
        )
        found = _all(called, {word: i for word, i in known.items() if i in ids})
        if found and not set(found) & set(tokens):
            tokens.append(found[-1])
    return End(tuple(tokens), text)


def stops(tokenizer: Any, generation_config: Any = None) -> list[int]:
    """Ids of the tokens that end an answer: the end of the turn first, the end of text, then those of the generation config.

    The padding token is left out unless it is the end of the turn or of the text itself.

    Args:
        tokenizer: With the chat template that is exported.
        generation_config: A `GenerationConfig`, a mapping as in generation_config.json, or None.
    """
    found = [*end_of_turn(tokenizer).tokens, *_ids(tokenizer.eos_token_id)]
    pad = tokenizer.pad_token_id
    size = len(tokenizer)
    found += [i for i in configured(generation_config) if i != pad and 0 <= i < size]
    return list(dict.fromkeys(found))


def words(tokenizer: Any, generation_config: Any = None) -> list[str]:
    """The texts that end an answer: those of `stops`, and plain text where the template ends a turn with it (Ollama, llama.cpp)."""
    found = [str(tokenizer.convert_ids_to_tokens(i)) for i in stops(tokenizer, generation_config)]
    plain = end_of_turn(tokenizer).text
    return list(dict.fromkeys([*found, *([plain] if plain else [])]))


def configured(generation_config: Any) -> list[int]:
    """`eos_token_id` of a generation config, object or mapping, as a list."""
    if generation_config is None:
        return []
    if isinstance(generation_config, Mapping):
        return _ids(generation_config.get("eos_token_id"))
    return _ids(getattr(generation_config, "eos_token_id", None))


def own_template(tokenizer: Any) -> str | None:
    """The tokenizer's chat template; the default one of several; None without one."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def _said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    if isinstance(value, Iterable):
        return [int(i) for i in value]
    return [int(value)]


def _added(tokenizer: Any) -> dict[str, int]:
    known = {added.content: i for i, added in tokenizer.added_tokens_decoder.items()}
    known |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return {word: i for word, i in known.items() if word.strip()}


def _tail(
    tokenizer: Any, template: str, messages: list[dict[str, Any]], mark: str, tools: list[dict[str, Any]] | None = None
) -> str | None:
    """What stands after the last `mark` in the rendered conversation; None where the template refuses it or leaves it out."""
    parts = [
        {**m, "content": [{"type": "text", "text": m["content"]}]} if m["content"] else m for m in messages
    ]  # the templates of some models that also see take nothing else
    for given in (messages, parts):
        try:
            text, _ = template_probes.rendered(tokenizer, template, given, tools)
        except Exception:  # a template raises whatever it likes
            continue
        if mark in text:
            return text.rsplit(mark, 1)[1]
    return None


def _first(text: str, known: Mapping[str, int]) -> tuple[int, int | None]:
    """Place and id of the first token of `known` in `text`, the longest of those that begin there."""
    places = sorted((text.find(word), -len(word), i) for word, i in known.items() if word in text)
    return (places[0][0], places[0][2]) if places else (-1, None)


def _all(text: str, known: Mapping[str, int]) -> list[int]:
    """Ids of all tokens of `known` in `text`, in order."""
    out = []
    while text:
        place, token = _first(text, known)
        if token is None:
            break
        out.append(token)
        text = text[
            place + max(len(word) for word, i in known.items() if i == token and text.startswith(word, place)) :
        ]
    return out


def _line(text: str) -> str:
    """The first line of `text` that is not empty, with the line break before it; empty where there is none."""
    for line in text.splitlines():
        if line.strip():
            return ("\n" if "\n" in text[: text.index(line)] else "") + line.rstrip()
    return ""
