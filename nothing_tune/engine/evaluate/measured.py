"""What was measured, put into the parts of a record: units for the figures, samples for people, facts of rows and settings."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nothing_tune.engine.evaluate import answers, calls, figures, judge, loss, rows, statistics, tasks
from nothing_tune.engine.evaluate.answers import Answer, Turn
from nothing_tune.engine.evaluate.figures import Unit
from nothing_tune.engine.evaluate.rows import Found
from nothing_tune.engine.export.source import Source
from nothing_tune.outputs.checkpoints import HANDED_OVER

SAMPLES = {"best": 2, "worst": 3, "random": 3}
SHOWN_PROMPT, SHOWN_ANSWER = 2000, 4000
"""Characters that samples keep, of prompts the last ones."""


@dataclass
class Asked:
    """What is measured.

    Attributes:
        found: Rows; None for tasks alone.
        turns: Answers that are generated.
        limit: New tokens of an answer at most.
        syntax: How calls are written.
        tasks: As `tasks.ready` gives them.
        examples: Examples of a task at most.
        unfit: Answers that could not be asked for.
    """

    found: Found | None = None
    turns: list[Turn] = field(default_factory=list)
    limit: int = 0
    syntax: calls.Syntax = field(default_factory=lambda: calls.Syntax("unknown"))
    tasks: list[Any] = field(default_factory=list)
    examples: int | None = None
    unfit: int = 0


@dataclass
class Side:
    """What one model gave: -log p of the tokens of each part, answers, results of tasks."""

    losses: list[loss.Numbers] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    tasks: tasks.Result = field(default_factory=lambda: ({}, {}))


def units(asked: Asked, mine: Side, theirs: Side | None) -> list[Unit]:
    """What was measured, answer by answer."""
    if asked.found is None:
        return []
    out = []
    number = 0
    encoder = asked.found.encoder
    for place, row in enumerate(asked.found.rows):
        told = _numbered(row, encoder, asked)
        count = 0
        for part in row.parts:
            for start, end in part.answers():
                text = encoder.tokenizer.decode(
                    part.ids[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                size = len(text.encode("utf-8", "surrogatepass"))
                pairs = [
                    figures.lost(float(side.losses[number][start:end].sum()), end - start, size) if side else {}
                    for side in (mine, theirs)
                ]
                turn, called = told[count] if count < len(told) else (0, None)
                out.append(Unit(place, turn, called, pairs[0], pairs[1]))
                count += 1
            number += 1
    for index, turn_ in enumerate(asked.turns):
        measured = [
            figures.counted(answers.measures(turn_, side.answers[index], asked.syntax)) if side else {}
            for side in (mine, theirs)
        ]
        out.append(Unit(turn_.row, turn_.number, bool(turn_.calls), measured[0], measured[1]))
    return out


def _numbered(row: rows.Row, encoder: Any, asked: Asked) -> list[tuple[int, bool | None]]:
    """Number and kind of each supervised answer of a row, where its ranges of tokens can be told to be its messages; else empty."""
    value = row.value or {}
    said = value.get("messages") or (value.get("prompt") if isinstance(value.get("prompt"), list) else None)
    if said is None or len(row.parts) != 1 or (not encoder.assistant_only and "messages" in value):
        return []
    first = 0 if "messages" in value else len(said)
    said = said if "messages" in value else [*said, *value["completion"]]
    found: list[tuple[int, bool | None]] = []
    count = 0
    for place, message in enumerate(said):
        if message["role"] == "assistant":
            count += 1
            if place >= first and message.get("weight", 1) != 0:
                found.append((count, bool(calls.of_message(message, asked.syntax)[1])))
    ranges = len(row.parts[0].answers())
    if row.parts[0].shortened:
        left = asked.found is not None and asked.found.report.get("truncation") == "left"
        return found[len(found) - ranges :] if left else found[:ranges]
    return found if ranges == len(found) else []


def data(
    request: Mapping[str, Any], asked: Asked, seen: list[tuple[str, str]] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`data` and `rows` of the record; `seen` are the rows that the run was trained on, None where nobody looked."""
    found = asked.found
    if found is None:
        return {"kind": "tasks", "sources": list(request.get("tasks") or []), "digest": None}, {"count": 0}
    counts = {
        **rows.lengths(found),
        "of": found.whole,
        "answers": len(asked.turns),
        "generated": len({t.row for t in asked.turns}),
        "unfit": asked.unfit,
        "left_out": found.refused,
        "seen": None if seen is None else len(seen),
        "places": [list(pair) for pair in (seen or [])[: rows.SHOWN]],
    }
    return {"kind": found.kind, "sources": found.sources, "digest": found.digest}, counts


def settings(request: Mapping[str, Any], found: Source, asked: Asked) -> dict[str, Any]:
    """`settings` of the record."""
    out: dict[str, Any] = {
        "which": request.get("which") or HANDED_OVER,
        "weights": found.facts["digest"],
        "rows": request.get("rows"),
        "level": statistics.LEVEL,
        "resamples": statistics.RESAMPLES,
        "seed": statistics.SEED,
        "group_by": request.get("group_by") or None,
        "generation": None,
        "tasks": list(request.get("tasks") or []) or None,
    }
    if asked.turns:
        out["generation"] = {"decoding": "greedy", "max_new_tokens": asked.limit, "calls": asked.syntax.kind}
    if asked.found is not None:
        out |= {"max_length": asked.found.report.get("max_length"), "template": asked.found.encoder.template.source}
    return out


def samples(asked: Asked, mine: Side, theirs: Side | None) -> list[dict[str, Any]]:
    """Rows to read: those with the lowest loss, with the highest, and some by chance."""
    if asked.found is None:
        return []
    means: dict[int, list[float]] = {}
    number = 0
    for place, row in enumerate(asked.found.rows):
        sums = [0.0, 0.0]
        tokens = 0
        for part in row.parts:
            for start, end in part.answers():
                sums[0] += float(mine.losses[number][start:end].sum())
                sums[1] += float(theirs.losses[number][start:end].sum()) if theirs else 0.0
                tokens += end - start
            number += 1
        if tokens:
            means[place] = [s / tokens for s in sums]
    turns = {t.row: i for i, t in enumerate(asked.turns)}  # the last answer of each row
    order = sorted((r for r in means if not turns or r in turns), key=lambda r: means[r][0])
    chosen: dict[int, str] = {}
    chosen |= dict.fromkeys(order[: SAMPLES["best"]], "best")
    chosen |= {r: "worst" for r in reversed(order[-SAMPLES["worst"] :]) if r not in chosen}
    rest = [r for r in order if r not in chosen]
    random.Random(statistics.SEED).shuffle(rest)
    chosen |= dict.fromkeys(rest[: SAMPLES["random"]], "random")
    out = []
    for place, why in chosen.items():
        row, index = asked.found.rows[place], turns.get(place)
        entry: dict[str, Any] = {
            "why": why, "place": row.place, "loss": means[place][0], "base_loss": means[place][1] if theirs else None,
            "prompt": "", "reference": "", "answer": None, "base_answer": None,
        }  # fmt: skip
        if index is not None:
            turn = asked.turns[index]
            entry |= {
                "prompt": judge.conversation(turn.messages)[-SHOWN_PROMPT:],
                "reference": (turn.written if turn.calls else turn.content)[:SHOWN_ANSWER],
                "answer": shown(mine.answers[index], turn)[:SHOWN_ANSWER],
                "base_answer": shown(theirs.answers[index], turn)[:SHOWN_ANSWER] if theirs else None,
                "measures": answers.measures(turn, mine.answers[index], asked.syntax),
            }
        else:
            text = asked.found.encoder.tokenizer.decode(row.parts[0].ids, skip_special_tokens=True)
            entry["reference"] = text[:SHOWN_ANSWER]
        out.append(entry)
    return out


def shown(answer: Answer, turn: Turn) -> str:
    """An answer as people and judges read it: with special tokens where the reference calls functions."""
    return answer.raw if turn.calls else answer.text
