"""An answer as it is generated: checked against the context, cut at the end of the turn, its tool calls read."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from nothing_tune.engine.chat import calls
from nothing_tune.engine.chat.models import Transformers
from nothing_tune.engine.chat.pieces import Pieces
from nothing_tune.errors import UsageError

MAX_NEW_TOKENS = 256
TEMPERATURE = 0.7


class Speaker(Protocol):
    """What answers: `models.Transformers` or `gguf.LlamaCpp`."""

    kind: str
    context: int | None
    device: str
    dtype: str
    can_leave_off: bool
    tokenizer: Any

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end an answer."""

    def encode(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[int]:
        """The conversation as tokens, up to where the answer begins."""

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """The text of tokens."""

    def without_adapter(self) -> AbstractContextManager[Any]:
        """While it lasts, the base answers."""

    def tokens(self, ids: Sequence[int], settings: Mapping[str, Any], cancel: threading.Event) -> Iterator[int]:
        """Generates after `ids`."""


def reply(model: Any, tokenizer: Any, request: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """The answer to `request` as it is generated: pieces of text, each with the number of tokens so far.

    Raises:
        ValueError: The request has no messages, or the settings cannot be used.
        UsageError: The conversation is longer than the model's context.
    """
    for event in answer(Transformers(model, tokenizer), request):
        yield str(event.get("text") or "") if event["type"] == "token" else "", int(event["tokens"])


def prompt(speaker: Speaker, request: Mapping[str, Any]) -> list[int]:
    """The tokens of a request's conversation.

    Raises:
        ValueError: It has no messages.
        UsageError: The chat template refuses them.
    """
    messages, tools = request.get("messages"), request.get("tools")
    if not isinstance(messages, list) or not messages:
        raise ValueError("a request needs a list of messages")
    try:
        return speaker.encode(messages, tools)
    except Exception as error:
        if type(error).__name__ not in ("TemplateError", "UndefinedError", "TemplateRuntimeError"):
            raise
        raise UsageError(
            f"the chat template refuses this conversation: {error}", hint="/undo takes back the last turn, /reset all"
        ) from error


def answer(
    speaker: Speaker, request: Mapping[str, Any], cancel: threading.Event | None = None
) -> Iterator[dict[str, Any]]:
    """Events of an answer: `token` with `text` and `tokens` so far, then one `done`, see `talk`.

    Args:
        request: `messages`, and what `talk` lists.
        cancel: Ends the answer when it is set, also from a signal handler.

    Raises:
        ValueError: The request has no messages, or the settings cannot be used.
        UsageError: The conversation leaves no room in the model's context, or its template refuses it.
    """
    cancel = cancel or threading.Event()
    if request.get("base") and not speaker.can_leave_off:
        raise UsageError("there is no adapter that could be left off", hint="--beside NAME asks another model as well")
    off = speaker.without_adapter() if request.get("base") else contextlib.nullcontext()
    ids = prompt(speaker, request)
    settings, cut = _settings(request, len(ids), speaker.context)
    pieces = Pieces(speaker.decode, request.get("stop") or ())
    said: list[int] = []
    finish = ""
    began = time.monotonic()
    stream = speaker.tokens(ids, settings, cancel)
    with off, contextlib.closing(stream):  # type: ignore[type-var]
        for token in stream:
            said.append(token)
            if token in speaker.stops:
                finish = "stop"
                break
            if text := pieces.add(token):
                yield {"type": "token", "text": text, "tokens": len(said)}
            if pieces.stopped:
                finish = "stop"
                break
            if cancel.is_set():
                finish = "cancelled"
                break
        finish = finish or ("cancelled" if cancel.is_set() else "context" if cut else "length")
    if text := pieces.end():
        yield {"type": "token", "text": text, "tokens": len(said)}
    finish = "stop" if pieces.stopped else finish
    kept = said[:-1] if said and said[-1] in speaker.stops else said
    done: dict[str, Any] = {
        "type": "done", "text": pieces.text, "tokens": len(said), "finish": finish, "prompt_tokens": len(ids),
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    words, made = calls.found(pieces.text, request.get("tools"), speaker.tokenizer, speaker.decode(kept, special=True))
    if made:
        done |= {"words": words, "calls": made}
    yield done


def _settings(request: Mapping[str, Any], used: int, context: int | None) -> tuple[dict[str, Any], bool]:
    """The sampling settings of a request, and whether the context cuts the answer shorter than was asked."""
    asked = int(request.get("max_new_tokens") or MAX_NEW_TOKENS)
    temperature = float(request.get("temperature", TEMPERATURE))
    top_p = float(request.get("top_p", 1.0))
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError("temperature is at least 0, top_p above 0 and at most 1")
    room = asked if context is None else context - used
    if room < 1:
        raise UsageError(
            f"the conversation has {used:,} tokens, and the model takes {context:,}",
            hint="/reset starts a new one, /undo takes back the last turn; nothing is dropped without your word",
        )
    return {
        "max_new_tokens": min(asked, room),
        "temperature": temperature,
        "top_p": top_p,
        "top_k": int(request["top_k"]) if request.get("top_k") is not None else None,
        "repetition_penalty": float(request["repetition_penalty"]) if request.get("repetition_penalty") else None,
        "seed": int(request["seed"]) if request.get("seed") is not None else None,
    }, room < asked
