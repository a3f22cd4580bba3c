"""The wizard: asks one question after the other on a terminal, shows the review, and lets any answer be changed by its number."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nothing_tune.cli import console
from nothing_tune.cli.init import review
from nothing_tune.cli.init.data import as_words, split_columns
from nothing_tune.cli.init.questions import QUESTIONS, Question, about_knob, read_knob
from nothing_tune.cli.init.state import State, knobs, refused
from nothing_tune.errors import Problem
from nothing_tune.recipe import defaults

WORDS = "Enter takes what is in brackets · ? explains · back goes back · Ctrl-C leaves nothing behind"
BACK, HELP = ("back", "b", "<"), ("?", "help")
PROMPT = "> "


class Back(Exception):
    """`back` was typed."""


def read_line(words: Sequence[str] = ()) -> str:
    """One line from the terminal, with Tab for `words` where the terminal can; `EOFError` at its end."""
    try:
        import readline
    except ImportError:
        return input(PROMPT).strip()

    def complete(begun: str, number: int) -> str | None:
        found = [word for word in words if word.startswith(begun)]
        return found[number] if number < len(found) else None

    readline.set_completer_delims("\n")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    readline.set_auto_history(False)
    return input(PROMPT).strip()


def ask(state: State, question: Question) -> None:
    """Asks until there is an answer that can be used, and keeps it. Raises `Back`."""
    paint = console.ink()
    default, why = question.default(state)
    asked = paint.bold(question.asks)
    console.out("", f"{asked} {paint.key(f'[{default}]')}" if default else asked)
    if why:
        _wrapped(why, paint.dim)
    console.out(*(console.cut_coloured(line, console.width()) for line in question.choices(state)))
    while True:
        text = read_line(question.words(state))
        if text in HELP:
            _explain(question.about(state) or ["Enter takes what is in brackets."])
        elif text.lower() in BACK:
            raise Back
        elif not text and not default:
            _problems([Problem("an answer is needed here", hint="? explains")])
        elif keep(state, question, text or default):
            return


def keep(state: State, question: Question, text: str) -> bool:
    """Reads an answer and keeps it, with a line that says what was found; False when it cannot be used, and was told so."""
    value, error = console.outcome(lambda: _read(state, question, text))
    if error is not None:
        named = split_columns(text)[0]
        told = [replace(p, hint=as_words(p.hint, named)) for p in error.problems]
        _problems(told if question.name == "data" else error.problems)
        return False
    state.given[question.name], state.values[question.name] = text, value
    console.out(*review.echo(state, question))
    return True


def _read(state: State, question: Question, text: str) -> Any:
    """The answer's value. Data of the hub may take long to read: it says so, and Ctrl-C then takes it as it is named."""
    if question.name not in ("data", "eval") or not state.look or "/" not in text or not review.on_hub(text):
        return question.read(state, text)
    console.note(f"  looking at {text} on the hub; Ctrl-C takes it unseen")
    try:
        return question.read(state, text)
    except KeyboardInterrupt:
        state.look = False
        console.out("")
        return question.read(state, text)


def interview(state: State) -> bool:
    """Asks what was not given; True when there was anything to ask. What was given and cannot be used is told and asked again."""
    asked: list[int] = []
    first, index = True, 0
    given = set(state.given)
    while index < len(QUESTIONS):
        question = QUESTIONS[index]
        if not question.when(state):
            index += 1
            continue
        if question.name in given:
            value, error = console.outcome(lambda question=question: question.read(state, state.given[question.name]))  # type: ignore[misc]
            if error is None:
                state.values[question.name] = value
                index += 1
                continue
            _problems(error.problems)
            given.discard(question.name)
        if first:
            console.out(console.ink().dim(WORDS))
            first = False
        try:
            ask(state, question)
            asked.append(index)
            index += 1
        except Back:
            index = asked.pop() if asked else index
    return bool(asked)


def settle(state: State) -> None:
    """Reads all answers anew after one of them has changed; what no longer fits is told and asked again."""
    for name in [n for n in state.given if n in defaults.KNOBS and n not in defaults.knobs(state.method)]:
        del state.given[name], state.values[name]
        console.note(f"  {state.method} has no {name}: it is left out")
    for question in QUESTIONS:
        if not question.when(state):
            state.given.pop(question.name, None)
            state.values.pop(question.name, None)
            continue
        text = state.given.get(question.name)
        if text is not None:
            value, error = console.outcome(lambda question=question, text=text: question.read(state, text))  # type: ignore[misc]
            if error is None:
                state.values[question.name] = value
                continue
            _problems(error.problems)
        with contextlib.suppress(Back):
            ask(state, question)
            continue
        ask_until(state, question)


def ask_until(state: State, question: Question) -> None:
    """As `ask`, where there is nothing to go back to."""
    while True:
        with contextlib.suppress(Back):
            ask(state, question)
            return


def look_over(state: State) -> None:
    """The review: shows everything with its reasons and the plan, until Enter says that it is to be written."""
    paint = console.ink()
    show = True
    while True:
        rows = review.rows(state)
        if show:
            console.out("", *review.page(state, rows, paint))
        show = False
        console.out(
            "", f"{paint.bold(f'Enter writes {state.file}')} {paint.dim('· a number changes that line · ? explains')}"
        )
        text = read_line([str(n + 1) for n in range(len(rows))])
        if not text:
            return
        if text in HELP:
            _explain([WORDS, "A number changes that line, and may have its new value behind it: 3 lora.",
                      "What follows from it is computed anew; what you have chosen yourself stays."])  # fmt: skip
            continue
        name, _, value = text.partition(" ")
        names = [row.name for row in rows]
        if name.lower() in BACK:
            name = str(max(i + 1 for i, n in enumerate(names) if n in {q.name for q in QUESTIONS}))
        number = int(name) if name.isdigit() else names.index(name.lower()) + 1 if name.lower() in names else 0
        if not 1 <= number <= len(rows):
            _problems([Problem(f"there is no line {name}", hint=f"1 to {len(rows)}, or Enter")])
            continue
        show = change(state, names[number - 1], value.strip())


def change(state: State, name: str, text: str = "") -> bool:
    """Changes one answer or knob; True when it was, False when it stays as it is."""
    question = next((q for q in QUESTIONS if q.name == name), None)
    if question is None:
        return _change_knob(state, name, text)
    before_given, before_values = dict(state.given), dict(state.values)
    try:
        if text:
            changed = keep(state, question, text)
        else:
            ask(state, question)
            changed = True
        if changed:
            settle(state)
        return changed
    except Back:
        state.given, state.values = before_given, before_values
        return False


def _change_knob(state: State, name: str, text: str) -> bool:
    paint = console.ink()
    now = knobs(state)[name]
    if not text:
        console.out("", f"{paint.bold(name)} {paint.key(f'[{defaults.shown(now.value)}]')}")
        _wrapped(f"{defaults.KNOBS[name].what}; {now.why}", paint.dim)
    while True:
        text = text or read_line()
        if not text or text.lower() in BACK:
            return False
        if text in HELP:
            _explain(about_knob(name))
        else:
            value, error = console.outcome(lambda text=text: read_knob(name, text))  # type: ignore[misc]
            problem = None if error else refused(state, name, value)
            if error is None and problem is None:
                state.given[name], state.values[name] = text, value
                return True
            _problems(error.problems if error else [problem] if problem else [])
        text = ""


def _explain(paragraphs: Sequence[str]) -> None:
    for paragraph in paragraphs:
        _wrapped(paragraph, lambda line: line)


def _wrapped(text: str, paint: Callable[[str], str]) -> None:
    columns = min(console.width() or console.PIPE_WIDTH, 110) - 4
    lines = textwrap.wrap(text, columns, subsequent_indent="  ", break_on_hyphens=False)
    console.out(*(f"  {paint(line)}" for line in lines))


def _problems(problems: Sequence[Problem]) -> None:
    import sys

    sys.stdout.flush()
    console.show_problems(problems, sys.stdout)
