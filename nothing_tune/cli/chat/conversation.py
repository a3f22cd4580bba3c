"""What is said to one or several models, and what they answer: the messages of each, the settings they share, the jobs that speak."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nothing_tune.cli.jobs import Job
from nothing_tune.errors import StorageError, UsageError

CALLED = 80
"""Most characters of an argument that are shown in the line of a call."""


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        who: Name of the one who answers.
        text: All it said.
        tokens: How many tokens it took, the one that ends it included.
        prompt_tokens: Tokens of the conversation before it.
        seconds: How long it took.
        finish: `stop` at the end of the turn, `length` at the limit asked for, `context` at the model's, `cancelled`.
        words: What it said beside its calls.
        calls: Functions it calls, as `{"name", "arguments"}`.
    """

    who: str
    text: str
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    finish: str = "stop"
    words: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As plain data, with a `type`; without calls where there are none."""
        data = asdict(self)
        if not self.calls:
            del data["calls"], data["words"]
        return {"type": "answer", **data}

    def message(self) -> dict[str, Any]:
        """The message that joins the conversation."""
        if not self.calls:
            return {"role": "assistant", "content": self.text}
        return {
            "role": "assistant",
            "content": self.words,
            "tool_calls": [{"type": "function", "function": call} for call in self.calls],
        }


class Voice:
    """One who answers: a job, whether its base speaks or could, and the messages so far. Voices may share a job."""

    def __init__(self, name: str, job: Job, base: bool = False, can_leave_off: bool = False, of: str = "") -> None:
        self.own_name = name
        self.job = job
        self.base = base
        self.can_leave_off = can_leave_off
        self.of = of or name
        """The run, folder or file that it was loaded from."""
        self.messages: list[dict[str, Any]] = []

    @property
    def name(self) -> str:
        """What it is called: `base` while the adapter is left off."""
        return "base" if self.base else self.own_name

    def answer(
        self, settings: Mapping[str, Any], tools: Sequence[Any], on_token: Callable[[str], None] | None = None
    ) -> Answer:
        """The answer to the messages, which it joins; `on_token` gets each piece as it comes. Raises what the job reports."""
        request = {"messages": self.messages, **{k: v for k, v in settings.items() if v is not None}}
        self.job.send({**request, **({"tools": list(tools)} if tools else {}), **({"base": True} if self.base else {})})
        while True:
            event = self.job.read()
            if event["type"] == "token" and on_token:
                on_token(str(event.get("text") or ""))
            elif event["type"] == "done":
                known = {k: event[k] for k in Answer.__dataclass_fields__ if event.get(k) is not None}
                made = Answer(**{"text": "", **known, "who": self.name})
                if made.text or made.finish != "cancelled":
                    self.messages.append(made.message())
                return made

    def tokens(self, tools: Sequence[Any]) -> tuple[int, int | None]:
        """`(tokens of the conversation, tokens that the model takes)`; `(0, ...)` before the first message."""
        if not self.messages:
            return 0, None
        self.job.send({"count": {"messages": self.messages, "tools": list(tools)}})
        while (event := self.job.read())["type"] != "counted":
            pass
        return int(event["tokens"]), event.get("context")


class Conversation:
    """The voices, and what they are told alike."""

    def __init__(self, voices: Sequence[Voice], settings: dict[str, Any], system: str = "") -> None:
        self.voices = list(voices)
        self.settings = settings
        self.tools: list[dict[str, Any]] = []
        self.retries = 0
        self.set_system(system)

    @property
    def system(self) -> str:
        """The system message; empty for none."""
        first = self.voices[0].messages[:1]
        return str(first[0]["content"]) if first and first[0]["role"] == "system" else ""

    def set_system(self, text: str) -> None:
        """Puts `text` in the place of the system message; empty for none."""
        for voice in self.voices:
            rest = [m for m in voice.messages if m["role"] != "system"]
            voice.messages = [*([{"role": "system", "content": text}] if text else []), *rest]

    def say(self, text: str) -> None:
        """A message of the user, to all."""
        self.retries = 0
        for voice in self.voices:
            voice.messages.append({"role": "user", "content": text})

    def sampling(self) -> dict[str, Any]:
        """Settings of the next answers: one seed for all voices, another one for each retry."""
        seed = self.settings.get("seed")
        if seed is None:
            return {**self.settings, "seed": random.randrange(2**31) if len(self.voices) > 1 else None}
        return {**self.settings, "seed": seed + self.retries}

    def undo(self) -> bool:
        """Takes back the last message of the user and what followed; whether there was one."""
        there = False
        for voice in self.voices:
            last = _last(voice.messages, ("user",))
            if last is not None:
                voice.messages, there = voice.messages[:last], True
        return there

    def reopen(self) -> bool:
        """Takes back the last answers so that they can be given anew; whether there is anything to answer."""
        there = False
        for voice in self.voices:
            last = _last(voice.messages, ("user", "tool"))
            if last is not None:
                voice.messages, there = voice.messages[: last + 1], True
        self.retries += 1
        return there

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.retries = 0
        for voice in self.voices:
            voice.messages = [m for m in voice.messages if m["role"] == "system"]

    def give_result(self, text: str) -> tuple[bool, bool]:
        """Gives `text` as what the next open call returned, to each voice; `(whether a call was open, whether one still is)`."""
        taken = False
        for voice in self.voices:
            waiting = open_calls(voice.messages)
            if waiting:
                taken = True
                voice.messages.append({"role": "tool", "name": waiting[0]["name"], "content": text})
        return taken, any(open_calls(voice.messages) for voice in self.voices)

    def row(self) -> dict[str, Any]:
        """The conversation of the first voice as a row of data."""
        return {"messages": self.voices[0].messages, **({"tools": self.tools} if self.tools else {})}


def open_calls(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Calls of the last answer that have no result yet."""
    for results, message in enumerate(reversed(messages)):
        if message["role"] != "tool":
            return [c["function"] for c in message.get("tool_calls") or []][results:]
    return []


def call_line(call: Mapping[str, Any]) -> str:
    """`get_weather(city="Rome", days=3)`."""
    parts = [f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in (call.get("arguments") or {}).items()]
    return f"{call['name']}({', '.join(p if len(p) <= CALLED else p[: CALLED - 1] + '…' for p in parts)})"


def read_tools(path: str) -> list[dict[str, Any]]:
    """Functions of a JSON file in OpenAI's form: a list, or `{"tools": [...]}`; bare functions are wrapped. `UsageError` otherwise."""
    try:
        data = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", hint="name a JSON file with a list of functions"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{path} is not JSON: {error}", hint="it holds a list of functions in OpenAI's form"
        ) from error
    listed = data.get("tools") if isinstance(data, dict) and "tools" in data else data
    listed = listed if isinstance(listed, list) else [listed]
    out = []
    for number, tool in enumerate(listed, 1):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UsageError(
                f"{path}: function {number} has no name",
                hint='write {"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}',
            )
        out.append({"type": "function", "function": function})
    return out


def read_text(word: str) -> str:
    """`word`, or the text of the file that `@FILE` names."""
    if not word.startswith("@"):
        return word
    try:
        return Path(word[1:]).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"cannot read {word[1:]}: {said}", hint="@FILE names a text file") from error


def save(row: Mapping[str, Any], path: Path, how: str) -> None:
    """Writes `row` as a JSON line that `tune data` and `tune train` read.

    Args:
        how: `x` for a new file, `a` to add a row, `w` to write over what is there.

    Raises:
        UsageError: There is a file, and `how` is `x`.
        StorageError: The disk refuses.
    """
    try:
        with open(path, how, encoding="utf-8") as handle:
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise UsageError(
            f"there is a file {path}", hint=f"/save --append {path} adds to it, /save --force {path} writes over it"
        ) from None
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", hint="name another file") from error


def read_row(path: Path) -> dict[str, Any]:
    """The last row with messages in a file of JSON lines. `UsageError` where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"cannot read {path}: {said}", hint="name a file that /save wrote") from error
    for line in reversed(lines):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:
            break
        messages = row.get("messages") if isinstance(row, dict) else None
        if isinstance(messages, list) and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
            return row
        break
    raise UsageError(
        f"{path} ends with no conversation", hint='its lines are {"messages": [...]}, as /save writes them'
    )


def _last(messages: Sequence[Mapping[str, Any]], roles: Sequence[str]) -> int | None:
    return next((i for i in range(len(messages) - 1, -1, -1) if messages[i]["role"] in roles), None)
