"""How a conversation looks: streamed on a terminal, two answers in columns where it is wide, one line an answer in a pipe."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.chat import commands
from nothing_tune.cli.chat.conversation import Answer, Conversation, Voice, call_line, open_calls
from nothing_tune.errors import TuneError, UsageError

MARK = "\u203a"
WIDE = 120
"""Columns from which on two answers stand side by side."""
GAP = 3
"""Columns between two answers that stand side by side."""
_SPEEDY = 3
"""Fewest tokens from which on a speed says anything."""


def one(talk: Conversation, prompt: str, as_json: bool) -> None:
    """Answers `prompt`, and nothing else: the answers alone, under their names where there are several."""
    talk.say(prompt)
    _told(talk, as_json, "a shorter --prompt or --system")


def lines(talk: Conversation, as_json: bool) -> None:
    """Without a terminal: each line of stdin is a message, and gets its answers at once."""
    while line := sys.stdin.readline():
        if line.strip():
            talk.say(line.rstrip("\n"))
            _told(talk, as_json, "shorter lines, or a tune chat for each: all of one input are one conversation")
            sys.stdout.flush()


def _told(talk: Conversation, as_json: bool, cure: str) -> None:
    """As `_plain`, with `cure` as the hint of an error where its own names commands, which only a terminal has."""
    _, error = console.outcome(lambda: _plain(talk, as_json))
    if error is not None:
        named = [re.search(r"(^|\W)/(undo|reset)\b", problem.hint) for problem in error.problems]
        raise type(error)(*(replace(p, hint=cure) if n else p for p, n in zip(error.problems, named, strict=True)))


def _plain(talk: Conversation, as_json: bool) -> None:
    settings = talk.sampling()
    for voice in talk.voices:
        answer = voice.answer(settings, talk.tools)
        if as_json:
            console.out(json.dumps(answer.to_json(), ensure_ascii=False))
        elif len(talk.voices) > 1:
            console.out(f"{voice.name}: {console.printable(answer.text).rstrip()}")
        else:
            console.out(console.printable(answer.text).rstrip())


def converse(talk: Conversation) -> None:
    """Asks and answers on a terminal until the person leaves."""
    paint = console.ink()
    with contextlib.suppress(ImportError):
        _with_readline()
    while True:
        text = _question(paint)
        if text is None:
            return
        if not text.strip():
            continue
        before = [list(voice.messages) for voice in talk.voices]
        if text.startswith("/") and not text.startswith("//"):
            done, error = console.outcome(lambda said=text: commands.run(talk, said.strip()))  # type: ignore[misc]
            if error is not None:
                _tell(talk, error)
                continue
            told, then = done or ([], "")
            console.out(*map(_shown, told), *([""] if told else []))
            if then == commands.QUIT:
                return
            if then != commands.ASK:
                continue
        else:
            talk.say(text[1:] if text.startswith("//") else text)
        _, error = console.outcome(lambda: _answers(talk, paint))
        if error is not None:
            for voice, messages in zip(talk.voices, before, strict=True):
                voice.messages = messages
            _tell(talk, error)


def _shown(line: str) -> str:
    """A line of ours that may hold words of a model or a file; its colours stay."""
    return line if "\x1b[" in line else console.printable(line)


def _tell(talk: Conversation, error: TuneError) -> None:
    """Shows what went wrong; raises it where nobody is left to talk to."""
    if any(voice.job.process.poll() is not None or voice.job.baffled for voice in talk.voices):
        raise error
    sys.stdout.flush()
    console.show_problems(error.problems)
    sys.stderr.write("\n")


def _answers(talk: Conversation, paint: console.Ink) -> None:
    """Lets every voice answer, and shows it."""
    settings = talk.sampling()
    columns = console.width() or 0
    if len(talk.voices) == 2 and columns >= WIDE:
        _side_by_side(talk, settings, columns, paint)
    else:
        for voice in talk.voices:
            sys.stdout.write(f"{paint.key(f'{voice.name} {MARK}')} ")
            sys.stdout.flush()

            def write(piece: str) -> None:
                sys.stdout.write(console.printable(piece))
                sys.stdout.flush()

            with _interruptible(voice):
                answer = voice.answer(settings, talk.tools, write)
            if answer.text.endswith("\n"):
                sys.stdout.write("\x1b[A" if console.is_terminal() else "")
            sys.stdout.write("\n")
            console.out(*_calls(answer, paint), paint.dim(_facts(answer)), "")
    if any(open_calls(voice.messages) for voice in talk.voices):
        console.out(paint.dim("/result TEXT says what it returned"), "")


def _side_by_side(talk: Conversation, settings: dict[str, Any], columns: int, paint: console.Ink) -> None:
    size = (columns - GAP) // 2
    drawn = []
    for voice in talk.voices:
        count = 0

        def tick(_: str, voice: Voice = voice) -> None:
            nonlocal count
            count += 1
            sys.stdout.write(f"\r\x1b[K{paint.dim(f'{voice.name}: {count} …')}")
            sys.stdout.flush()

        with _interruptible(voice):
            answer = voice.answer(settings, talk.tools, tick)
        words = [*wrapped(answer.words if answer.calls else answer.text, size), *(call_line(c) for c in answer.calls)]
        drawn.append((voice.name, words, _facts(answer)))
    sys.stdout.write("\r\x1b[K")
    console.out(*beside(drawn, size, paint), "")


def wrapped(text: str, size: int) -> list[str]:
    """The lines of `text`, no longer than `size`; its own line breaks stay."""
    out: list[str] = []
    for line in console.printable(text).strip().splitlines():
        out += textwrap.wrap(line, size, break_on_hyphens=False, replace_whitespace=False) or [""]
    return out


def beside(drawn: Sequence[tuple[str, list[str], str]], size: int, paint: console.Ink) -> list[str]:
    """Two answers `(name, lines, facts)` as lines of two columns, each `size` wide."""
    height = max(len(lines) for _, lines, _ in drawn)
    rows = [[paint.key(console.cut(f"{name} {MARK}", size)) for name, _, _ in drawn]]
    rows += [[console.cut(lines[i], size) if i < len(lines) else "" for _, lines, _ in drawn] for i in range(height)]
    rows += [[paint.dim(console.cut(facts, size)) for _, _, facts in drawn]]
    return ["".join(cell + " " * (size + GAP - console.visible(cell)) for cell in row).rstrip() for row in rows]


def _calls(answer: Answer, paint: console.Ink) -> list[str]:
    return [f"{paint.dim('calls')} {console.printable(call_line(call))}" for call in answer.calls]


def _facts(answer: Answer) -> str:
    """`42 tokens, 18.3 a second; ended by you`."""
    said = console.plural(answer.tokens, "token")
    if answer.tokens >= _SPEEDY and answer.seconds > 0:
        said += f", {answer.tokens / answer.seconds:.1f} a second"
    why = {"length": "cut at --max-new-tokens", "context": "cut: the context is full", "cancelled": "stopped by you"}
    return said + (f"; {why[answer.finish]}" if answer.finish in why else "")


@contextlib.contextmanager
def _interruptible(voice: Voice) -> Iterator[None]:
    """While it lasts, Ctrl-C ends the answer; a second one ends the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = 0

    def ended(*_: Any) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt
        with contextlib.suppress(OSError):
            voice.job.process.send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _question(paint: console.Ink) -> str | None:
    """What the person types, over several lines where it says so; None at the end of the input."""
    # readline counts what stands between \x01 and \x02 as no columns
    head = f"\x01\x1b[1m\x02you {MARK}\x01\x1b[0m\x02 " if paint.on else f"you {MARK} "
    more = f"{' ' * 4}{MARK} " if not paint.on else f"\x01\x1b[2m\x02    {MARK}\x01\x1b[0m\x02 "
    try:
        line = input(head)
        if line.strip().startswith('"""'):
            return _quoted(line.strip()[3:], more)
        while line.endswith("\\"):
            line = f"{line[:-1]}\n{input(more)}"
    except EOFError:
        sys.stdout.write("\n")
        return None
    except KeyboardInterrupt:
        sys.stdout.write("\n")
        raise
    return line


def _quoted(line: str, more: str) -> str:
    said = [line]
    while not said[-1].rstrip().endswith('"""'):
        said.append(input(more))
    said[-1] = said[-1].rstrip()[:-3]
    return "\n".join(said).strip("\n")


def _with_readline() -> None:
    """Arrow keys, a history for this conversation, and Tab for commands."""
    import readline

    def completer(text: str, state: int) -> str | None:
        hits = commands.complete(text) if readline.get_begidx() == 0 else []
        return hits[state] if state < len(hits) else None

    readline.set_completer_delims(" ")
    readline.set_completer(completer)
    readline.parse_and_bind("tab: complete")


def check_text(prompt: str | None) -> None:
    """`UsageError` for an empty prompt."""
    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt is empty", hint="leave it out to talk, or give it a text")
