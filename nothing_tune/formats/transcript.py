"""Chat logs and scripts: lines with their speakers, turned into conversations in which one speaker is the assistant.

Two shapes. One line a row: a column with the speaker (`SPEAKERS`) and one with what is said (`LINES`); consecutive rows with
the same values in the columns of `SCENES` are one conversation. Or a whole transcript a row (`WHOLES`): a list of
{speaker, text}, or text with lines such as `JERRY: Hello` (a line without a speaker goes on with the one before; a line all
in brackets is a stage direction and nobody's).

Consecutive lines of one speaker are one turn. All who are not the wanted speaker are the user; where a conversation has
several of them, their names stay in front of their lines. Conversations are cut into windows of `turns` turns that start
with a user's turn and end with the wanted speaker's. Every turn of theirs is learned exactly once: with `stride` smaller than `turns`
windows overlap, and what was learned before is context with weight 0. What the wanted speaker says before anyone else has spoken answers
nothing: each of these lines is given as `LeftOut`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any, TypeVar

from nothing_tune.errors import Problem, UsageError
from nothing_tune.formats._turns import conversation
from nothing_tune.formats._values import BadRow, LeftOut, entries, filled, kind, others

NAME = "transcript"
WANTS = "a column with who speaks (`speaker`, `character`, ...) and one with what is said (`text`, `line`, ...)"
KIND = "messages"
OVER: tuple[str, ...] = ()

SPEAKERS = ("speaker", "character", "name", "author", "from_user")
LINES = ("text", "line", "dialogue", "utterance", "content", "message")
WHOLES = ("transcript", "dialogue", "script")
SCENES = ("scene", "episode", "conversation", "conversation_id", "dialogue_id")
TURNS = 8
"""Turns of a window where the options name none."""
SHOWN = 8
"""Speakers that an error names."""
OPENS = LeftOut("the speaker's line opens the conversation")
"""What becomes of a line that nothing stands before."""

LABEL = re.compile(r"[ \t]*([^\W\d_][\w .,'\u2019&#()/-]{0,39}?)[ \t]*:(?:[ \t]+|$)")
"""A speaker at the start of a line: a letter, then at most 39 more letters, digits and marks of names, then a colon."""
STAGE = re.compile(r"\s*(\[[^\]]*\]|\([^)]*\))\s*")

P = TypeVar("P")


def matches(row: Mapping[str, Any]) -> bool:
    """Whether `row` has a speaker and a line, or a whole transcript."""
    if _speaker(row) is not None:
        return _line(row) is not None
    for name in WHOLES:
        value = row.get(name)
        if isinstance(value, str) and not entries(value):
            return len(_labelled(value)) > 1
        turn = next(iter(entries(value)), None)
        if isinstance(turn, Mapping) and _speaker(turn) is not None and _line(turn) is not None:
            return True
    return False


def _speaker(row: Mapping[str, Any]) -> str | None:
    """The column that says who speaks: the first of `SPEAKERS` that holds text."""
    return next((name for name in SPEAKERS if isinstance(row.get(name), str)), None)


def _line(row: Mapping[str, Any]) -> str | None:
    """The column that says what is said: the first of `LINES` that holds text."""
    return next((name for name in LINES if isinstance(row.get(name), str)), None)


def convert(row: Mapping[str, Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One piece for `join`: {"utterances": [{"speaker", "text"}, ...], "whole": whether it is a transcript of its own}.

    It carries the row's plain columns that are none of these.
    """
    if not any(row.get(name) is not None for name in SPEAKERS):
        for name in WHOLES:
            if row.get(name) is not None:
                said = _whole(row[name], f"`{name}`")
                return [{**others(row, {name}), "utterances": said, "whole": True}]
    said = [_utterance(row, "")]
    return [{**others(row, {*SPEAKERS, *LINES}), "utterances": said, "whole": False}]


def _utterance(row: Mapping[str, Any], place: str) -> dict[str, str]:
    speaker, line = _speaker(row), _line(row)
    for column, all_of_them, what in ((speaker, SPEAKERS, "speaker"), (line, LINES, "text")):
        if column is None:
            found = next((name for name in all_of_them if row.get(name) is not None), None)
            if found:
                raise BadRow(f"`{found}`{place} is {kind(row[found])}, not text")
            raise BadRow(f"there is no `{what}`{place}")
    speaker, line = str(speaker), str(line)
    said = filled(row[line], f"`{line}`{place}").strip()
    return {"speaker": filled(row[speaker], f"`{speaker}`{place}").strip(), "text": said}


def _whole(value: Any, place: str) -> list[dict[str, str]]:
    """The utterances of a transcript in one row."""
    turns = entries(value)
    if isinstance(value, list | tuple) or turns:
        if not turns:
            raise BadRow(f"{place} has no line")
        for number, turn in enumerate(turns, 1):
            if not isinstance(turn, Mapping):
                raise BadRow(f"line {number} of {place} is {kind(turn)}, not an object with `speaker` and `text`")
        return [_utterance(turn, f" of line {number} of {place}") for number, turn in enumerate(turns, 1)]
    text = filled(value, place)
    labels = set(_labelled(text))
    out: list[dict[str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or STAGE.fullmatch(line):
            continue
        label = LABEL.match(line)
        if label and label[1] in labels:
            out.append({"speaker": label[1], "text": line[label.end() :].strip()})
        elif not out:
            raise BadRow(f"line {number} of {place} names no speaker, as in `JERRY: Hello`")
        else:
            out[-1]["text"] = f"{out[-1]['text']}\n{line.strip()}".strip()
    if not out:
        raise BadRow(f"{place} has no line")
    for utterance in out:
        filled(utterance["text"], f"what {utterance['speaker']} says in {place}")
    return out


def _labelled(text: str) -> list[str]:
    """The speakers at the start of the lines of `text`; only those in capitals, where most are."""
    found = [label[1] for line in text.splitlines() if (label := LABEL.match(line))]
    capitals = [name for name in found if name.isupper()]
    return capitals if 2 * len(capitals) > len(found) else found


def join(
    rows: Iterable[tuple[P, dict[str, Any]]], options: Mapping[str, Any]
) -> Iterator[tuple[P, dict[str, Any] | LeftOut]]:
    """Windows of the conversations that the pieces of `convert` make, each at the place of its first line.

    Before them `OPENS` for each line of the wanted speaker that opens the conversation.
    A window carries the plain columns that are the same on all its lines (the scene, say). Holds one conversation in memory.

    Raises:
        UsageError: data.transcript.speaker is missing or speaks nowhere, or the window's sizes lose lines.
    """
    settings = options.get("transcript") or {}
    wanted = str(settings.get("speaker") or "").strip()
    size, stride = _sizes(settings)
    seen: Counter[str] = Counter()
    for lines in _conversations(rows):
        seen.update(said["speaker"] for _, said, _ in lines)
        if wanted:
            for place, _, _ in takewhile(lambda line: line[1]["speaker"].casefold() == wanted.casefold(), lines):
                yield place, OPENS
            yield from _windows(lines, wanted.casefold(), size, stride)
    if seen and not any(name.casefold() == wanted.casefold() for name in seen):
        raise UsageError(_nobody(wanted, seen))


def _sizes(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Pairs of turns in a window, and pairs from one window to the next."""
    turns = settings.get("turns") or TURNS
    stride = settings.get("stride") or turns
    if turns < 2:
        raise UsageError(
            Problem(
                f"a window of {turns} turn has no room for a question and its answer",
                key="data.transcript.turns",
                hint="set data.transcript.turns to 2 or more",
            )
        )
    if stride > turns:
        raise UsageError(
            Problem(
                f"windows of {turns} turns that start {stride} turns apart lose the lines between them",
                key="data.transcript.stride",
                hint="set data.transcript.stride to no more than data.transcript.turns, or to null",
            )
        )
    return turns // 2, max(1, stride // 2) if stride < turns else turns // 2


def _nobody(wanted: str, seen: Counter[str]) -> Problem:
    most = ", ".join(f"{name} ({count} {'line' if count == 1 else 'lines'})" for name, count in seen.most_common(SHOWN))
    more = f" and {len(seen) - SHOWN} more" if len(seen) > SHOWN else ""
    what = f"{wanted!r} speaks nowhere in the transcript" if wanted else "no speaker is chosen whose lines are learned"
    return Problem(
        what, key="data.transcript.speaker", hint=f"set data.transcript.speaker to one of those who speak: {most}{more}"
    )


_Line = tuple[Any, dict[str, str], dict[str, Any]]
"""The place of an utterance, the utterance, the other columns of its row."""


def _conversations(rows: Iterable[tuple[Any, dict[str, Any]]]) -> Iterator[list[_Line]]:
    """The utterances of one conversation at a time."""
    lines: list[_Line] = []
    current: tuple[Any, ...] | None = None
    for place, piece in rows:
        kept = {name: value for name, value in piece.items() if name not in ("utterances", "whole")}
        scene = None if piece["whole"] else tuple(kept.get(name) for name in SCENES)
        if lines and (scene is None or scene != current):
            yield lines
            lines = []
        current = scene
        lines += [(place, said, kept) for said in piece["utterances"]]
    if lines:
        yield lines


def _windows(lines: list[_Line], wanted: str, size: int, stride: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Windows of `size` pairs of turns, each starting `stride` pairs after the one before."""
    pairs = _pairs(lines, wanted)
    named = len({said["speaker"].casefold() for _, said, _ in lines} - {wanted}) > 1
    learned = 0
    for start in range(0, len(pairs), stride):
        window = pairs[start : start + size]
        turns: list[dict[str, Any]] = []
        for number, (asked, answered) in enumerate(window, start):
            turns.append({"role": "user", "content": _text(asked, named)})
            turns.append({"role": "assistant", "content": _text(answered, False)})
            if number < learned:
                turns[-1]["weight"] = 0
        parts = [line for pair in window for side in pair for line in side]
        first = parts[0][2]
        same = {k: v for k, v in first.items() if all(k in line[2] and line[2][k] == v for line in parts)}
        yield parts[0][0], {"messages": conversation(("message", turn) for turn in turns), **same}
        learned = start + len(window)
        if learned == len(pairs):
            return


def _pairs(lines: list[_Line], wanted: str) -> list[tuple[list[_Line], list[_Line]]]:
    """What the others say, then what the wanted speaker answers; an answer to nothing and a last question are left out."""
    pairs: list[tuple[list[_Line], list[_Line]]] = []
    for line in lines:
        if line[1]["speaker"].casefold() != wanted:
            if not pairs or pairs[-1][1]:
                pairs.append(([], []))
            pairs[-1][0].append(line)
        elif pairs:
            pairs[-1][1].append(line)
    return [pair for pair in pairs if pair[1]]


def _text(lines: list[_Line], named: bool) -> str:
    """The lines of one turn, one below the other; a speaker's name stands before the first of theirs in a row."""
    out, last = [], None
    for _, said, _ in lines:
        new = said["speaker"].casefold() != last
        out.append(f"{said['speaker']}: {said['text']}" if named and new else said["text"])
        last = said["speaker"].casefold()
    return "\n".join(out)
