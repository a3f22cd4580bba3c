"""The rows that a run is measured on, as it would have trained on them, and which of them it has seen."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nothing_tune.artifacts import Run, checkpoint
from nothing_tune.data import duplicates, rows, sources
from nothing_tune.engine import build, fingerprints, prepare
from nothing_tune.engine.prepare.cutting import cut
from nothing_tune.engine.prepare.tokens import IGNORED, Encoder, encode
from nothing_tune.errors import Problem, TuneError, UsageError
from nothing_tune.plan.model import Plan

Place = tuple[int, int]
"""Index of a file and line in it, as `prepare` counts them."""
Tell = Callable[[str, int, float | None], None]
SHOWN = 10
"""Rows seen in training that are named."""


@dataclass(frozen=True)
class Part:
    """Tokens of a row as they are trained on: `ids` and `labels` of the same length, and whether tokens before them were cut off."""

    ids: list[int]
    labels: list[int]
    shortened: bool

    def answers(self) -> list[tuple[int, int]]:
        """Ranges `[start, end)` of supervised tokens that follow one another, without the first token of all, which nothing predicts."""
        out = []
        start = 0
        for learned, run in itertools.groupby(self.labels, key=lambda label: label != IGNORED):
            end = start + len(list(run))
            if learned and end > max(start, 1):
                out.append((max(start, 1), end))
            start = end
        return out


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        place: `FILE:LINE`.
        at: The same as numbers.
        file: Its file.
        parts: Its tokens; several where long rows are split.
        value: The canonical row; None where it cannot be told which of its line's it is.
    """

    place: str
    at: Place
    file: str
    parts: list[Part]
    value: Mapping[str, Any] | None


@dataclass(frozen=True)
class Found:
    """Rows to measure on.

    Attributes:
        kind: `held-out` or `data`.
        sources: As they were named.
        rows: The rows.
        whole: How many there were before `--rows`.
        encoder: Renders and tokenises as the training did.
        digest: sha256 of tokens and labels of all of them.
        report: What `prepare` says.
        refused: Rows that were left out: bad, too long, nothing to learn in them.
    """

    kind: str
    sources: list[str]
    rows: list[Row]
    whole: int
    encoder: Encoder
    digest: str
    report: dict[str, Any]
    refused: int


def trains_with_evaluation(plan: Plan) -> bool:
    """Whether the run held rows out."""
    return str(plan.training.get("eval_strategy") or "no") != "no"


def held_out(run: Run, plan: Plan, tokenizer: Any, date: str, seen_allowed: bool, tell: Tell) -> Found:
    """The evaluation rows of a run, exactly those that it held out.

    Raises:
        UsageError: It held none out, its data is gone, or it is no longer what it was (unless `seen_allowed`).
    """
    if not trains_with_evaluation(plan) or not plan.data.get("eval"):
        raise UsageError(
            Problem(
                f"run {run.id} held no rows out: it was trained without evaluation",
                hint=f"tune eval {run.id} --data FILE measures on rows of yours",
            )
        )
    made = prepare.load(plan, tokenizer, True, date, tell)
    assert made.eval is not None
    digest = str(fingerprints.of_rows(made.eval))
    if not seen_allowed and (known := _fingerprint(run)) and known != digest:
        raise UsageError(
            Problem(
                f"the held out rows are not those of run {run.id}: {known[:8]} then, {digest[:8]} now",
                hint="its data or the libraries that prepare it have changed; put them back, name rows with --data, "
                "or add --seen to measure on what is there",
            )
        )
    opened, first = _sides(plan)
    encoder = _encoder(plan, tokenizer, made)
    found = _rows(made.eval, made.report, opened, plan.data, encoder)
    named = _names(plan.data["train"] if first is None else plan.data["eval"])
    return Found("held-out", named, found, len(found), encoder, digest, made.report, 0)


def named(plan: Plan, tokenizer: Any, names: Sequence[str], date: str, tell: Tell) -> Found:
    """Rows of files, folders, patterns or hub ids, prepared with template, masks and length of the training.

    They are read as the run's data is (`format`, `columns`); where that does not fit, their format is told from them.

    Raises:
        UsageError: A source is missing or has no known format; too many rows are bad.
    """
    given: Any = list(names) if len(names) > 1 else names[0]
    alone = {
        "train": given, "eval": None, "dedupe": "none", "leakage": "keep", "max_samples": None, "group_by": None, "stratify_by": None,
    }  # fmt: skip
    training = {**plan.training, "packing": False, "eval_strategy": "no"}
    if training.get("assistant_only_loss") is None:
        try:
            training["assistant_only_loss"] = _assistant_only(plan)
        except TuneError:
            training["assistant_only_loss"] = None  # the training data is gone; the rows themselves decide
    if plan.training.get("packing"):
        training["padding_free"] = False
    values = {**plan.values, "training": {**(plan.values.get("training") or {}), "packing": False}}
    tries = [alone, {**alone, "format": "auto", "columns": None}]
    first: UsageError | None = None
    for settings in tries:
        other = replace(plan, data={**plan.data, **settings}, training=training, values=values)
        try:
            made = prepare.load(other, tokenizer, False, date, tell)
            break
        except UsageError as error:
            first = first or error
    else:
        assert first is not None
        raise UsageError(
            *(replace(p, what=p.what.removeprefix("data.train: "), key="", layer="") for p in first.problems)
        )
    opened = sources.open_all(given, other.data, "")
    encoder = _encoder(other, tokenizer, made)
    found = _rows(made.train, made.report, opened, other.data, encoder)
    dropped = sum(made.report["dropped"].values()) + made.report["bad_rows"]["count"]
    return Found(
        "data", list(names), found, len(found), encoder, str(fingerprints.of_rows(made.train)), made.report, dropped
    )


def sample(found: Found, count: int | None, seed: int) -> Found:
    """`count` of the rows by chance, in their order; all where there are no more."""
    if count is None or count >= len(found.rows):
        return found
    picks = sorted(random.Random(seed).sample(range(len(found.rows)), count))
    return replace(found, rows=[found.rows[i] for i in picks])


def seen(found: Found, run: Run, plan: Plan, date: str, tell: Tell) -> list[tuple[str, str]]:
    """Rows that the run was trained on, each with the place of its twin in the training data.

    Rows are the same by content, as `data.dedupe` understands it: exactly, or nearly where the plan says `near`.

    Raises:
        UsageError: The training rows cannot be read, so that nobody can tell.
    """
    near = float(plan.data.get("near_duplicates") or 0.85) if plan.data.get("dedupe") == "near" else None
    known = duplicates.Seen(near)
    places = {}
    for number, row in enumerate(found.rows):
        if row.value is not None:
            known.add(rows.Row(dict(row.value), 0, number))
            places[number] = row
    try:
        made = prepare.load(plan, build.tokenizer(plan), trains_with_evaluation(plan), date, tell)
        opened, first = _sides(plan)
        trained = _places(made.train)
        start = 0 if first is None else first
        out: dict[int, tuple[str, str]] = {}
        ledger = rows.Ledger()
        for count, one in enumerate(rows.stream(opened, plan.data, ledger)):
            if one.file < start or (one.file, one.line) not in trained:
                continue
            twin = known.find(one)
            if twin is None or twin.line in out:
                continue
            mine = places[twin.line]
            if found.kind == "held-out" and mine.at == (one.file, one.line):
                continue  # several rows of one line, on both sides
            out[twin.line] = (mine.place, ledger.place(one))
            if count % 10_000 == 0:
                tell("comparing with the training rows", count, ledger.share())
    except UsageError as error:
        said = error.problems[0]
        raise UsageError(
            Problem(
                f"the rows that run {run.id} was trained on cannot be read, so that nobody knows whether it has seen these: {said.what}",
                hint="put them back, or add --seen to measure all the same",
            )
        ) from error
    return [out[n] for n in sorted(out)]


def refuse_seen(pairs: Sequence[tuple[str, str]], whole: int, run: Run) -> None:
    """`UsageError` that names the first rows seen in training; nothing where there are none."""
    if not pairs:
        return
    one = len(pairs) == 1
    more = f", and {len(pairs) - 3:,} more" if len(pairs) > 3 else ""
    listed = "; ".join(mine if mine == theirs else f"{mine} is {theirs}" for mine, theirs in pairs[:3])
    raise UsageError(
        Problem(
            f"run {run.id} was trained on {len(pairs):,} of these {whole:,} rows: {listed}{more}",
            hint=f"take {'it' if one else 'them'} out, or add --seen to measure on {'it' if one else 'them'} all the same",
        )
    )


def _fingerprint(run: Run) -> str | None:
    """Digest of the held out rows as a checkpoint of the run remembers it; None without one."""
    for step in reversed(checkpoint.complete(run.checkpoints)):
        marks = checkpoint.read(run.checkpoints / f"checkpoint-{step}").get("fingerprints") or {}
        if "eval_tokens" in marks:
            return marks["eval_tokens"] and str(marks["eval_tokens"])
    return None


def _sides(plan: Plan) -> tuple[list[sources.Opened], int | None]:
    """All sources in the order in which `prepare` numbers their files, and the number of the first training file; None where a share
    of the training rows is held out, or none."""
    train = sources.open_all(plan.data["train"], plan.data, "data.train")
    given = plan.data.get("eval")
    if not trains_with_evaluation(plan) or not given or isinstance(given, int | float):
        return train, None
    held = sources.open_all(given, plan.data, "data.eval")
    return [*held, *train], sum(len(one.labels) for one in held)


def _assistant_only(plan: Plan) -> bool:
    wanted = plan.training.get("assistant_only_loss")
    if wanted is not None:
        return bool(wanted)
    return any(one.format.KIND == "messages" for one in sources.open_all(plan.data["train"], plan.data, "data.train"))


def _encoder(plan: Plan, tokenizer: Any, made: prepare.Prepared) -> Encoder:
    completion_only = plan.training.get("completion_only_loss")
    wanted = plan.training.get("assistant_only_loss")
    only = made.kind == "messages" if wanted is None else bool(wanted)
    return Encoder(tokenizer, made.template, only, True if completion_only is None else bool(completion_only))


def _names(value: Any) -> list[str]:
    return [one.label for one in sources.parse(value)]


def _places(data: Any) -> set[Place]:
    """Where the rows of prepared data come from, packed or not."""
    found = data.select_columns(["file", "line"]).with_format("arrow")[:]
    columns = []
    for name in ("file", "line"):
        column = found[name].combine_chunks()
        while hasattr(column, "value_lengths"):
            column = column.flatten()
        columns.append(column.to_numpy(zero_copy_only=False).tolist())
    return set(zip(*columns, strict=True))


def _rows(
    data: Any, report: dict[str, Any], opened: list[sources.Opened], settings: Mapping[str, Any], encoder: Encoder
) -> list[Row]:
    """Prepared rows, not packed, with the canonical rows that they were made of."""
    parts: dict[Place, list[Part]] = {}
    for entry in data:
        ids, labels = list(entry["input_ids"]), list(entry["labels"])
        place = (int(entry["file"]), int(entry["line"]))
        parts.setdefault(place, []).append(Part(ids, labels, int(entry["before"]) > len(ids)))
    values: dict[Place, list[Mapping[str, Any]]] = {}
    ledger = rows.Ledger()
    for one in rows.stream(opened, settings, ledger):
        if (one.file, one.line) in parts:
            values.setdefault((one.file, one.line), []).append(one.value)
    out = []
    files = report["files"]
    for place, mine in parts.items():
        name, by_line = files[place[0]]
        where = sources.place(name, place[1], by_line)
        there = values.get(place, [])
        if len(there) == 1:
            out.append(Row(where, place, name, mine, there[0]))
            continue
        left = list(mine)  # several rows of one line: told by their tokens
        for value, taken in _matched(there, left, encoder, report):
            out.append(Row(where, place, name, taken, value))
        if left:
            out.append(Row(where, place, name, left, None))
    return out


def _matched(
    values: list[Mapping[str, Any]], left: list[Part], encoder: Encoder, report: dict[str, Any]
) -> Iterator[tuple[Mapping[str, Any], list[Part]]]:
    """Canonical rows with their parts, which are taken out of `left`."""
    for value, encoded in zip(values, encode(values, encoder), strict=True):
        if isinstance(encoded, str):
            continue
        ids = [list(i) for i, _ in cut(encoded, report["max_length"], str(report["truncation"])).parts]
        taken = [p for p in left if p.ids in ids]
        if taken and len(taken) >= len(ids):
            del taken[len(ids) :]
            for part in taken:
                left.remove(part)
            yield value, taken


def lengths(found: Found) -> dict[str, int]:
    """`count`, `tokens` and `supervised_tokens` (those that something predicts) of rows."""
    parts = [p for row in found.rows for p in row.parts]
    return {
        "count": len(found.rows),
        "tokens": int(np.sum([len(p.ids) for p in parts], dtype=np.int64)),
        "supervised_tokens": sum(end - start for p in parts for start, end in p.answers()),
    }


def columns(found: Found) -> list[str]:
    """Columns that any row has beside its conversation, in the order in which they come."""
    said = ("messages", "prompt", "completion", "text", "tools")
    return list(dict.fromkeys(str(k) for row in found.rows for k in row.value or {} if k not in said))


def column(row: Row, name: str) -> str | None:
    """The value of a row's column as the name of a group; None where it has none."""
    value = (row.value or {}).get(name)
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
