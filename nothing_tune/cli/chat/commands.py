"""What `/words` do at the prompt of `tune chat`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.chat.conversation import Conversation, open_calls, read_row, read_text, read_tools, save
from nothing_tune.errors import UsageError

ASK = "ask"
QUIT = "quit"


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        takes: What follows it, for the help; empty for nothing.
        says: What it does, for the help.
        do: Does it; returns lines to show, and `ASK` to have the models answer, `QUIT` to leave, or nothing.
    """

    takes: str
    says: str
    do: Callable[[Conversation, str], tuple[list[str], str]]


def run(talk: Conversation, line: str) -> tuple[list[str], str]:
    """Does what `line` (`/temperature 0`) says: `(lines to show, what comes next)`. `UsageError` where it cannot be done."""
    word, _, rest = line[1:].partition(" ")
    name = ALIASES.get(word, word)
    if name not in COMMANDS:
        near = get_close_matches(word, [*COMMANDS, *ALIASES], n=1, cutoff=0.5)
        hint = f"did you mean /{near[0]}?" if near else "/help lists the commands; //text says /text"
        raise UsageError(f"no such command: /{word}", hint=hint)
    return COMMANDS[name].do(talk, rest.strip())


def _help(talk: Conversation, rest: str) -> tuple[list[str], str]:
    paint = console.ink()
    heads = [f"/{name} {command.takes}".rstrip() for name, command in COMMANDS.items()]
    size = max(map(len, heads))
    lines = [
        f"  {paint.key(head)}{' ' * (size - len(head))}  {command.says}"
        for head, command in zip(heads, COMMANDS.values(), strict=True)
    ]
    more = 'A line that ends with \\ goes on, and so does """ until """. Ctrl-C ends an answer, Ctrl-D leaves.'
    return [*lines, paint.dim(f"  {more}")], ""


def _reset(talk: Conversation, rest: str) -> tuple[list[str], str]:
    talk.reset()
    return ["a new conversation" + (", with the same system message" if talk.system else "")], ""


def _undo(talk: Conversation, rest: str) -> tuple[list[str], str]:
    if not talk.undo():
        raise UsageError("there is nothing to take back")
    left = sum(m["role"] == "user" for m in talk.voices[0].messages)
    return [f"the last turn is taken back; {console.plural(left, 'turn')} left"], ""


def _retry(talk: Conversation, rest: str) -> tuple[list[str], str]:
    if not talk.reopen():
        raise UsageError("there is nothing to answer yet")
    return [], ASK


def _save(talk: Conversation, rest: str) -> tuple[list[str], str]:
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise UsageError(f"cannot read {rest}: {error}") from error
    how = "a" if "--append" in words else "w" if "--force" in words else "x"
    files = [w for w in words if not w.startswith("--")]
    if len(files) != 1:
        raise UsageError("which file? /save FILE")
    if not any(m["role"] == "assistant" for m in talk.voices[0].messages):
        raise UsageError("there is nothing to save yet")
    path = Path(files[0]).expanduser()
    save(talk.row(), path, how)
    whose = f", the words of {talk.voices[0].name}" if len(talk.voices) > 1 else ""
    return [f"saved to {path}: {console.plural(len(talk.voices[0].messages), 'message')}{whose}"], ""


def _load(talk: Conversation, rest: str) -> tuple[list[str], str]:
    if not rest:
        raise UsageError("which file? /load FILE")
    row = read_row(Path(rest).expanduser())
    for voice in talk.voices:
        voice.messages = [dict(m) for m in row["messages"]]
    if isinstance(row.get("tools"), list):
        talk.tools = row["tools"]
    waits = row["messages"] and row["messages"][-1]["role"] in ("user", "tool")
    more = "; /retry has its last message answered" if waits else ""
    return [f"{console.plural(len(row['messages']), 'message')} from {rest}{more}"], ""


def _system(talk: Conversation, rest: str) -> tuple[list[str], str]:
    if not rest:
        return [talk.system or "there is no system message; /system TEXT or /system @FILE sets one"], ""
    talk.set_system("" if rest == "off" else read_text(rest))
    return ["the system message is gone" if rest == "off" else "the system message is set"], ""


def _number(
    key: str, least: float, most: float | None, whole: bool
) -> Callable[[Conversation, str], tuple[list[str], str]]:
    shown = key.replace("_", "-")

    def do(talk: Conversation, rest: str) -> tuple[list[str], str]:
        if not rest:
            value = talk.settings.get(key)
            return [f"{shown} is {'left to the model' if value is None else f'{value:g}'}"], ""
        if rest == "off":
            talk.settings[key] = None
            return [f"{shown} is left to the model"], ""
        try:
            value = int(rest) if whole else float(rest)
        except ValueError:
            raise UsageError(f"/{shown} takes a {'whole ' if whole else ''}number, not {rest!r}") from None
        if value < least or (most is not None and value > most) or value != value:
            raise UsageError(f"/{shown} takes {least:g} {'or more' if most is None else f'to {most:g}'}, not {rest}")
        talk.settings[key] = value
        return [f"{shown} {value:g}"], ""

    return do


def _tokens(talk: Conversation, rest: str) -> tuple[list[str], str]:
    lines = []
    for voice in talk.voices:
        used, limit = voice.tokens(talk.tools)
        of = f" of {limit:,}" if limit else ""
        lines.append((f"{voice.name}: " if len(talk.voices) > 1 else "") + f"{used:,} tokens{of}")
    return lines, ""


def _base(talk: Conversation, rest: str) -> tuple[list[str], str]:
    voice = talk.voices[0]
    if not voice.can_leave_off:
        raise UsageError(f"{voice.of} has no adapter that could be left off")
    if any(other.name == "base" for other in talk.voices[1:]):
        raise UsageError("the base answers already")
    voice.base = not voice.base
    return ["the base answers now; /base brings the adapter back" if voice.base else "the adapter is back"], ""


def _tools(talk: Conversation, rest: str) -> tuple[list[str], str]:
    if rest == "off":
        talk.tools = []
    elif rest:
        talk.tools = read_tools(rest)
    names = ", ".join(str(tool["function"]["name"]) for tool in talk.tools)
    return [f"functions: {names}" if names else "no functions"], ""


def _result(talk: Conversation, rest: str) -> tuple[list[str], str]:
    if not any(open_calls(voice.messages) for voice in talk.voices):
        raise UsageError("no call waits for a result")
    if not rest:
        raise UsageError('what did it return? /result {"ok": true}')
    _, more = talk.give_result(rest)
    return (["one more result, please"], "") if more else ([], ASK)


def _quit(talk: Conversation, rest: str) -> tuple[list[str], str]:
    return [], QUIT


COMMANDS: dict[str, Command] = {
    "help": Command("", "these lines", _help),
    "reset": Command("", "forgets the conversation, not the system message", _reset),
    "undo": Command("", "takes back your last message and the answer", _undo),
    "retry": Command("", "has the last message answered anew", _retry),
    "save": Command("FILE", "writes the conversation as a row of data; --append adds, --force writes over", _save),
    "load": Command("FILE", "goes on with the last conversation in a file", _load),
    "system": Command("TEXT|@FILE", "sets the system message; off removes it", _system),
    "temperature": Command(
        "X", "0 always takes the likeliest token, higher is livelier", _number("temperature", 0, None, False)
    ),
    "top-p": Command("X", "samples from the likeliest tokens that make up X", _number("top_p", 1e-6, 1, False)),
    "top-k": Command("N", "samples from the N likeliest tokens", _number("top_k", 0, None, True)),
    "max-new-tokens": Command("N", "longest answer", _number("max_new_tokens", 1, None, True)),
    "seed": Command("N", "the same answers again; off for chance", _number("seed", 0, None, True)),
    "tokens": Command("", "how long the conversation is", _tokens),
    "base": Command("", "leaves the adapter off, or brings it back", _base),
    "tools": Command("FILE", "functions that may be called, in OpenAI's JSON; off for none", _tools),
    "result": Command("TEXT", "what the function that was called has returned", _result),
    "quit": Command("", "leaves, as Ctrl-D does", _quit),
}
ALIASES = {"exit": "quit", "q": "quit", "?": "help", "h": "help", "again": "retry", "temp": "temperature"}


def complete(text: str) -> list[str]:
    """Commands that begin as `text` does, for the Tab key."""
    return [f"/{name}" for name in COMMANDS if f"/{name}".startswith(text)] if text.startswith("/") else []


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that a command line gives; None where the model decides."""
    keys = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop")
    return {key: options[key] for key in keys}
