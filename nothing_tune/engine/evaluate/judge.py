"""Has another model judge answers: two by two in both orders, or one by one; through an OpenAI-compatible endpoint.

Verdicts are kept beside the evaluation as they come (`NAME.json.generate/answers.jsonl`), so that nothing is asked, or paid for, twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nothing_tune.engine.evaluate import statistics
from nothing_tune.engine.generate import endpoint
from nothing_tune.engine.generate.ledger import Ledger
from nothing_tune.engine.generate.questions import Answer, Prompt, Question
from nothing_tune.engine.generate.schedule import Schedule
from nothing_tune.engine.job import Send
from nothing_tune.errors import Problem, TuneError
from nothing_tune.outputs.evaluation import Metric, Metrics
from nothing_tune.recipe.judges import Judge

RETRIES, TIMEOUT_S, CONCURRENCY = 5, 120.0, 8
WORDS = (
    ("generate.generator.base_url", "--endpoint"),
    ("generate.generator.model", "--judge-model"),
    ("generate.generator.api_key_env", "--judge-key-env"),
    ("generate.generator and generate.sampling", "--endpoint, --judge-model and the judge's sampling"),
    ("; docs/generate.md has the addresses of the usual servers", ""),
)
"""How the endpoint's messages call things, and how they are called here."""


@dataclass(frozen=True)
class Item:
    """What is judged: an answer of the run, and the one that it is held against.

    Attributes:
        row: Number of its row.
        place: `FILE:LINE`.
        conversation: The messages before it.
        reference: The answer in the data.
        run: The run's answer.
        other: The other one's; None where nothing is held against it.
    """

    row: int
    place: str
    conversation: Sequence[Mapping[str, Any]]
    reference: str
    run: str
    other: str | None


@dataclass(frozen=True)
class Judged:
    """What a judge said of all items: metrics of the run, of the other, their difference, and what it took."""

    run: Metrics
    other: Metrics
    difference: Metrics
    facts: dict[str, Any]


def judged(
    judge: Judge, items: Sequence[Item], where: Mapping[str, Any], output: Path, tokenizer: Any, send: Send
) -> Judged:
    """Asks about all items and puts the verdicts together.

    Args:
        where: `base_url`, `model`, `api_key_env` (the environment variable that holds the key), `concurrency`.
        output: File beside which the verdicts are kept.
        tokenizer: Counts the tokens of the questions, about as the judge does.

    Raises:
        UsageError: The endpoint refuses the key or all questions, or has no such model.
        RunError: Nothing answers at the address.
        StorageError: The verdicts cannot be kept.
        Busy: Another process asks for the same evaluation.
    """
    asked = _questions(judge, items, where)
    distinct = {q.key: q for pair in asked for q in pair.values()}
    settings = {
        "generator": {"base_url": where["base_url"], "model": where["model"], "api_key_env": where.get("api_key_env")},
        "retries": RETRIES,
        "timeout_s": TIMEOUT_S,
        "concurrency": int(where.get("concurrency") or CONCURRENCY),
    }
    with Ledger(output) as ledger:
        open_ = [q for q in distinct.values() if q.key not in ledger.answers]
        expected = sum(len(tokenizer(m["content"])["input_ids"]) for q in open_ for m in q.messages)
        send(
            type="cost", when="before", questions=len(open_), kept=len(distinct) - len(open_), tokens_in=expected,
            tokens_out=judge.max_tokens * len(open_),
        )  # fmt: skip
        done = 0

        def give(question: Question, answer: Answer) -> None:
            nonlocal done
            done += 1
            ledger.add(question, answer, True, "")
            send(type="progress", stage="asking the judge", done=done, total=len(open_), unit="questions")

        if open_:
            schedule = Schedule(open_, {"": {"target": None}}, lambda _: 0, None)
            try:
                asyncio.run(_ask(schedule, settings, give))
            except TuneError as error:
                raise type(error)(*map(_renamed, error.problems)) from error
        answers = {key: ledger.answers.get(key) for key in distinct}
        faults = Counter(ledger.faults[key].fault for key in distinct if answers[key] is None and key in ledger.faults)
    taken = [a for key, a in answers.items() if a is not None and key in {q.key for q in open_}]
    facts = {
        "judge": judge.name, "kind": judge.kind, "endpoint": where["base_url"], "model": where["model"],
        "digest": hashlib.sha256(json.dumps(judge.to_json(), sort_keys=True).encode()).hexdigest()[:16],
        "questions": len(distinct), "asked": len(open_), "tokens_in": sum(a.tokens_in for a in taken),
        "tokens_out": sum(a.tokens_out for a in taken), "faults": dict(faults.most_common(5)),
        "same_answers": sum(not pair for pair in asked),
    }  # fmt: skip
    send(type="cost", when="after", **{k: facts[k] for k in ("asked", "tokens_in", "tokens_out")})
    verdicts = {key: None if a is None else judge.verdict(a.text) for key, a in answers.items()}
    put = _pairwise if judge.kind == "pairwise" else _scores
    return replace(put(items, asked, verdicts), facts=facts)


async def _ask(schedule: Schedule, settings: dict[str, Any], give: endpoint.Give) -> None:
    await endpoint.ask_all(schedule, settings, give, asyncio.Event())


def _questions(judge: Judge, items: Sequence[Item], where: Mapping[str, Any]) -> list[dict[str, Question]]:
    """For each item its questions: `ab` and `ba` of a pair (none where both answers are the same), `run` and `other` of scores."""
    out = []
    for number, item in enumerate(items):
        known = {"conversation": conversation(item.conversation), "reference": item.reference}
        if judge.kind == "pairwise":
            assert item.other is not None
            fields = {
                "ab": {"answer_a": item.run, "answer_b": item.other},
                "ba": {"answer_a": item.other, "answer_b": item.run},
            }
            fields = {} if item.run == item.other else fields
        else:
            fields = {"run": {"answer": item.run}}
            if item.other is not None:
                fields["other"] = {"answer": item.other}
        out.append({k: _question(judge, {**known, **f}, where, number, item.place) for k, f in fields.items()})
    return out


def _question(judge: Judge, fields: Mapping[str, str], where: Mapping[str, Any], number: int, place: str) -> Question:
    said = [{"role": "system", "content": judge.system}] if judge.system else []
    messages = (*said, {"role": "user", "content": judge.prompt.format(**fields)})
    sampling = {"temperature": judge.temperature, "top_p": 1.0, "max_new_tokens": judge.max_tokens}
    text = json.dumps([messages, where["base_url"], where["model"], sampling], sort_keys=True, ensure_ascii=False)
    key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Question(key, Prompt(number, place, "", messages), messages, sampling, None)


def conversation(messages: Sequence[Mapping[str, Any]]) -> str:
    """Messages as a judge reads them: `user: ...`, one under the other, calls as JSON."""
    lines = []
    for message in messages:
        content = message.get("content")
        text = (
            content if isinstance(content, str) else "" if content is None else json.dumps(content, ensure_ascii=False)
        )
        made = [json.dumps(c.get("function") or c, ensure_ascii=False) for c in message.get("tool_calls") or []]
        lines.append(f"{message['role']}: " + "\n".join([*([text] if text else []), *made]))
    return "\n\n".join(lines)


def _pairwise(
    items: Sequence[Item], asked: Sequence[Mapping[str, Question]], verdicts: Mapping[str, str | float | None]
) -> Judged:
    """A win or a loss is what both orders agree on; everything else that can be read is a tie."""
    rows: list[int] = []
    outcomes: list[str] = []
    read: list[tuple[int, bool]] = []
    firsts: list[tuple[int, bool]] = []
    for item, pair in zip(items, asked, strict=True):
        if not pair:
            rows.append(item.row)
            outcomes.append("tie")
            continue
        both = [verdicts[pair[order].key] for order in ("ab", "ba")]
        read += [(item.row, verdict is not None) for verdict in both]
        firsts += [(item.row, verdict == "first") for verdict in both if verdict in ("first", "second")]
        if None in both:
            continue
        rows.append(item.row)
        agreed = {("first", "second"): "win", ("second", "first"): "loss"}
        outcomes.append(agreed.get((str(both[0]), str(both[1])), "tie"))
    run = {f"judge_{kind}": _share(rows, [o == kind for o in outcomes]) for kind in ("win", "loss", "tie")}
    run["judge_invalid"] = _share([r for r, _ in read], [not good for _, good in read])
    run["judge_position"] = _share([r for r, _ in firsts], [first for _, first in firsts])
    wins, whole = _sums(rows, [float(o == "win") for o in outcomes])
    losses, _ = _sums(rows, [float(o == "loss") for o in outcomes])
    apart = {"judge_win": statistics.difference(wins, whole, losses, whole)} if rows else {}
    return Judged({k: m for k, m in run.items() if m.n}, {}, apart, {})


def _scores(
    items: Sequence[Item], asked: Sequence[Mapping[str, Question]], verdicts: Mapping[str, str | float | None]
) -> Judged:
    size = max((i.row for i in items), default=-1) + 1
    sums = {side: (np.zeros(size), np.zeros(size)) for side in ("run", "other")}
    read: list[tuple[int, bool]] = []
    for item, pair in zip(items, asked, strict=True):
        for side, question in pair.items():
            score = verdicts[question.key]
            read.append((item.row, isinstance(score, float)))
            if isinstance(score, float):
                sums[side][0][item.row] += score
                sums[side][1][item.row] += 1
    run: Metrics = {"judge_score": statistics.ratio(*sums["run"])}
    run["judge_invalid"] = _share([r for r, _ in read], [not good for _, good in read])
    other: Metrics = {}
    apart: Metrics = {}
    if sums["other"][1].any():
        other["judge_score"] = statistics.ratio(*sums["other"])
        apart["judge_score"] = statistics.difference(*sums["run"], *sums["other"])
    return Judged({k: m for k, m in run.items() if m.n}, other, apart, {})


def _sums(rows: Sequence[int], values: Sequence[float]) -> tuple[statistics.Numbers, statistics.Numbers]:
    places = np.array(rows, dtype=np.int64)
    return np.bincount(places, weights=np.array(values)), np.bincount(places).astype(float)


def _share(rows: Sequence[int], values: Sequence[bool]) -> Metric:
    return statistics.share(*_sums(rows, [float(v) for v in values])) if rows else Metric(None)


def _renamed(problem: Problem) -> Problem:
    what, hint = problem.what, problem.hint
    for old, new in WORDS:
        what, hint = what.replace(old, new), hint.replace(old, new)
    return replace(problem, what=what, hint=hint, key="")
