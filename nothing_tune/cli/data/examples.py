"""Rows exactly as the model sees them: what is learned, what is only read, and the special tokens between."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nothing_tune.cli.console import Ink, plural
from nothing_tune.cli.data.drawing import count, harmless, short, wide

OPEN, CLOSE = "⟦", "⟧"
"""Around what is learned, where there are no colours."""
RETURN, TAB = "↵", "⇥"
SPELLED = "holds special tokens in its text"
_SIGNS = re.compile(r"(\n|\t)")


def legend(paint: Ink) -> str:
    """One line that says what the colours, or the brackets, mean."""
    if paint.on:
        learned = f"{_tint('learned', True, False, paint)} {_tint('<special>', True, True, paint)}"
        read = f"{_tint('only read', False, False, paint)} {_tint('<special>', False, True, paint)}"
        return f"{learned}  {read}  {paint.warn(RETURN)} line break"
    return f"{OPEN}learned{CLOSE}  the rest is only read  {RETURN} line break"


def lines(
    examples: Sequence[Mapping[str, Any]],
    room: int | None,
    paint: Ink,
    truncation: str = "right",
    spelled: Collection[str] = (),
) -> list[str]:
    """Every example with a head that names its place, tokens and what was cut off.

    Args:
        examples: As the job reports them: `place`, `row`, `tokens`, `supervised`, `cut`, `pieces` of `text`, `supervised`, `special`.
        room: Columns after which a line goes on below; None never breaks one.
        truncation: `left` where the beginning is what was cut off.
        spelled: Places of rows whose text spells special tokens, which look the same as those that the template puts there.
    """
    out: list[str] = []
    for example in examples:
        tokens, learned = int(example.get("tokens") or 0), int(example.get("supervised") or 0)
        facts = f"{plural(tokens, 'token')}, {count(learned)} learned"
        place = str(example.get("place") or f"row {example.get('row')}")
        shown = short(place, None if room is None else room - 30)
        out += ["", f"{paint.bold(shown)}  {paint.dim(facts)}"]
        out += [paint.warn(SPELLED)] if place in spelled else []
        body = _body(example.get("pieces") or [], None if room is None else max(room - 2, 16), paint)
        bar = paint.dim("│")
        lost = int(example.get("cut") or 0)
        end = [paint.warn(f"… {plural(lost, 'token')} cut off")] if lost else []
        body = [*end, *body] if truncation == "left" else [*body, *end]
        out += [f"{bar} {line}".rstrip() for line in body]
    return out


def spelled(findings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Places of the rows that a report's findings name for special tokens in their text."""
    return {str(row) for f in findings if "holds special tokens" in str(f.get("what")) for row in f.get("rows") or []}


def _body(pieces: Sequence[Mapping[str, Any]], room: int | None, paint: Ink) -> list[str]:
    """The lines of one example. Learned spans are joined before they are marked, so that no bracket stands inside one."""
    out: list[str] = []
    line, used = "", 0
    for learned, span in _spans(pieces):
        marks = not paint.on and learned
        if marks:
            line, used = line + OPEN, used + 1
        for text, special in span:
            for part in _SIGNS.split(harmless(text)):
                if part == "\n":
                    out.append(line + paint.warn(RETURN))
                    line, used = "", 0
                elif part == "\t":
                    line, used = line + paint.warn(TAB), used + 1
                elif part:
                    for index, run in enumerate(_broken(part, room, used)):
                        if index:
                            out.append(line)
                            line, used = "", 0
                        line, used = line + _tint(run, learned, special, paint), used + wide(run)
        if marks:
            if out and not line:
                out[-1] += CLOSE
            else:
                line, used = line + CLOSE, used + 1
    return [*out, line] if line else out


def _tint(text: str, learned: bool, special: bool, paint: Ink) -> str:
    """Green is learned, a special token of it bold; dim is only read, a special token of it cyan."""
    if learned:
        return paint.bold(paint.ok(text)) if special else paint.ok(text)
    return paint.key(text) if special else paint.dim(text)


def _spans(pieces: Sequence[Mapping[str, Any]]) -> list[tuple[bool, list[tuple[str, bool]]]]:
    """`(learned, [(text, special), ...])` of pieces that follow each other."""
    out: list[tuple[bool, list[tuple[str, bool]]]] = []
    for piece in pieces:
        learned = bool(piece.get("supervised"))
        if not out or out[-1][0] != learned:
            out.append((learned, []))
        out[-1][1].append((str(piece.get("text") or ""), bool(piece.get("special"))))
    return out


def _broken(text: str, room: int | None, used: int) -> list[str]:
    """`text` in runs that fit: the first behind `used` columns, each other into a line of its own."""
    if room is None:
        return [text]
    out, run, at = [], "", used
    for sign in text:
        step = wide(sign)
        if at + step > room:
            out.append(run)
            run, at = "", 0
        run, at = run + sign, at + step
    return [*out, run]
