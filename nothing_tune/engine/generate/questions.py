"""What is asked, and what came back: plain data between the prompts, the generators, the ledger and the filters."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One row of the source of prompts.

    Attributes:
        index: Its place in the order of the prompts, from 0; the output keeps this order.
        place: `FILE:LINE`, for messages.
        group: The value of the column `group_by` as text; empty without one.
        messages: What the generator reads, the last one the user's; without the group's system message.
        columns: The row's other plain values, which the written row keeps.
        answer: The authentic answer; None when one is to be generated.
    """

    index: int
    place: str
    group: str
    messages: tuple[Message, ...]
    columns: dict[str, Any] = field(default_factory=dict)
    answer: str | None = None

    @property
    def text(self) -> str:
        """The user's last message."""
        return str(self.messages[-1].get("content") or "")


@dataclass(frozen=True)
class Question:
    """A prompt as it is sent.

    Attributes:
        key: Digest of all that decides the answer: messages with their system message, model, revision, sampling.
        seed: The prompt's own seed, drawn from the key; None where `sampling.seed` is null.
    """

    key: str
    prompt: Prompt
    messages: tuple[Message, ...]
    sampling: dict[str, Any]
    seed: int | None


@dataclass(frozen=True)
class Answer:
    """What the generator gave for one question.

    Attributes:
        finish: `stop`; `length` where max_new_tokens cut it; what the endpoint says otherwise.
        tokens_in: Tokens of the question; 0 where the endpoint does not count.
        tokens_out: Tokens of the answer, the same.
        fault: Why there is no answer; empty when there is one.
        lasting: The fault would come again: the next run does not ask again by itself.
    """

    text: str = ""
    finish: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    fault: str = ""
    lasting: bool = False


def question(prompt: Prompt, group: dict[str, Any], generator: dict[str, Any]) -> Question:
    """The question that asks `generator` for an answer to `prompt` with the settings of its `group`.

    A prompt that brings a system message of its own keeps it.
    """
    messages = prompt.messages
    system = group.get("system")
    if system and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": of_group(system, prompt.group)}, *messages)
    sampling = dict(group["sampling"])
    content = {
        "messages": messages,
        "model": generator["model"],
        "revision": generator.get("revision"),
        "sampling": sampling,
        "extra": generator.get("extra"),
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    seed = None if sampling.get("seed") is None else int(digest[:8], 16) & 0x7FFFFFFF
    return Question(digest, prompt, messages, sampling, seed)


def of_group(text: str, group: str) -> str:
    """`text` with the name of the group in the place of `{group}`."""
    return text.replace("{group}", group)
