"""Sources to prepared rows in one pass: read, deduplicated, split, tokenised, cut and written; what is seen on the way is reported."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nothing_tune.data import duplicates, mixture, rows, splits
from nothing_tune.data.rows import Ledger, Row
from nothing_tune.data.sources import Opened
from nothing_tune.engine.prepare import audit, packing, store
from nothing_tune.engine.prepare.cutting import Cut, cut
from nothing_tune.engine.prepare.tokens import Encoded, Encoder, encode

BATCH = 512
"""Rows that are rendered and tokenised together."""
EXAMPLES = 5
"""Places kept of each kind of dropped row."""
DROPPED = (
    "duplicates", "near_duplicates", "leaked", "too_short", "too_long", "over_max_length", "unsupervised", "capped",
)  # fmt: skip
"""Why rows are left out."""

Tell = Callable[[str, int, float | None], None]
"""Told what is done, how many rows are done, and the share of the whole where it is known."""


@dataclass(frozen=True)
class Settings:
    """What preparation follows; all of it decides what the rows become, and so belongs to their key.

    Attributes:
        data: The plan's `data`.
        evaluate: Whether there are evaluation rows at all.
        max_length: Tokens of a sequence at most; None for no limit.
        packed: Whether the training rows are packed.
    """

    data: dict[str, Any]
    evaluate: bool
    max_length: int | None
    packed: bool


@dataclass
class _Side:
    """One side while it is written."""

    writer: store.Writer
    audit: audit.Side


@dataclass(frozen=True)
class _Special:
    """A tokenizer's special tokens: a pattern that finds them in text, their ids, and two that are looked for by themselves."""

    pattern: re.Pattern[str] | None
    ids: frozenset[int]
    start: int | None
    unknown: int | None

    @classmethod
    def of(cls, tokenizer: Any) -> _Special:
        known = {str(t): i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        spelt = "|".join(re.escape(t) for t in sorted(known, key=len, reverse=True))
        end, unknown = tokenizer.eos_token_id, tokenizer.unk_token_id
        return cls(
            re.compile(spelt) if known else None,
            frozenset({*known.values(), *([] if end is None else [end])}),
            tokenizer.bos_token_id,
            None if unknown == end else unknown,
        )


@dataclass
class _Work:
    """All that the pass gathers."""

    settings: Settings
    encoder: Encoder
    ledger: Ledger
    tell: Tell
    special: _Special
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[Any]] = field(default_factory=dict)
    ends_learned: int = 0
    doubled_start: int = 0
    unknown: int = 0
    largest_id: int = 0
    used: Counter[int] = field(default_factory=Counter)
    leaks: int = 0
    typed: int = 0
    merged: int = 0
    positions: array[int] = field(default_factory=lambda: array("i"))

    def example(self, name: str, what: Any) -> None:
        kept = self.examples.setdefault(name, [])
        if len(kept) < EXAMPLES:
            kept.append(what)


def prepare(
    train: list[Opened], held_out: list[Opened] | None, encoder: Encoder, settings: Settings, folder: Path, tell: Tell
) -> dict[str, Any]:
    """Writes `train.arrow`, and `eval.arrow` where there are evaluation rows, into `folder`; returns the report without findings."""
    whole = sum(one.bytes for one in [*train, *(held_out or [])])
    work = _Work(settings, encoder, Ledger(total=whole), tell, _Special.of(encoder.tokenizer))
    rows_file = folder / "rows.arrow"
    sides = {"train": _Side(store.Writer(rows_file), audit.Side())}
    if settings.evaluate:
        sides["eval"] = _Side(store.Writer(folder / "eval.arrow"), audit.Side())
    known = duplicates.Seen(_similarity(settings.data))
    if held_out is not None:
        _write(_evaluation(held_out, work, known), sides, work)
    picks = _mixture(train, known, held_out is None, work) if len(train) > 1 else None
    _write(_picked(_training(train, work, known, held_out is None), picks, work), sides, work)
    for side in sides.values():
        side.writer.close()
    if picks is not None:
        store.reorder(rows_file, np.argsort(np.asarray(work.positions, dtype=np.int64), kind="stable"))
    packed = None
    if settings.packed and sides["train"].writer.rows:
        tell("packing", sides["train"].writer.rows, None)
        packed = packing.pack(rows_file, folder / "train.arrow", int(settings.max_length or 0))
        rows_file.unlink()
    else:
        rows_file.rename(folder / "train.arrow")
    return _report(work, sides, packed, train)


@dataclass(frozen=True, slots=True)
class _Found:
    """A row, the side it goes to, the number of its source, and its place in the mixture."""

    row: Row
    side: str
    source: int
    position: int = 0


def _evaluation(opened: list[Opened], work: _Work, known: duplicates.Seen) -> Iterator[_Found]:
    """Evaluation rows from sources of their own, as they are; `known` remembers them."""
    limit = work.settings.data.get("max_samples")
    count = 0
    for number, found in enumerate(_streams(opened, work)):
        for row in found:
            if limit and count >= int(limit):
                return
            count += 1
            known.add(row)
            yield _Found(row, "eval", number)


def _training(opened: list[Opened], work: _Work, evaluation: duplicates.Seen, split: bool) -> Iterator[_Found]:
    """Training rows without duplicates and without those of the evaluation rows; with `split` a share goes to evaluation."""
    data = work.settings.data
    limit = data.get("max_samples")
    limit = int(limit) if limit and len(opened) == 1 else None
    keep_leaks = data.get("leakage") == "keep"
    dedupe = data.get("dedupe") != "none"
    seen = duplicates.Seen(_similarity(data))
    held: set[tuple[int, int]] = set()
    share = float(data.get("eval") or 0.0) if split and work.settings.evaluate else 0.0
    splitter = splits.Splitter(share, int(data.get("seed", 42)), data.get("group_by"), data.get("stratify_by"))
    kept = 0
    for number, found in enumerate(_streams(opened, work)):
        for row in found:
            if len(evaluation) and (twin := evaluation.find(row)) is not None:
                work.leaks += 1
                work.example("leaked", (_place(row), (twin.file, twin.line)))
                if not keep_leaks:
                    work.dropped["leaked"] += 1
                    continue
            twin = seen.add(row) if dedupe or share else None
            if dedupe and twin is not None:
                work.dropped["near_duplicates" if twin.kind == "near" else "duplicates"] += 1
                work.example("duplicates", (_place(row), (twin.file, twin.line)))
                continue
            side = splitter.side(row) if share and twin is None else "train"
            if twin is not None and (twin.file, twin.line) in held:
                side = "eval"  # a copy stays with the first, or the evaluation would hold what is trained on
            if side == "eval":
                held.add(_place(row))
            yield _Found(row, side, number)
            kept += side == "train"
            if limit and kept >= limit:
                return


def _similarity(data: dict[str, Any]) -> float | None:
    """From which similarity two rows are the same; None where only equal ones are."""
    return float(data.get("near_duplicates") or 0.85) if data.get("dedupe") == "near" else None


def _streams(opened: list[Opened], work: _Work) -> list[Iterator[Row]]:
    """One stream a source."""
    return [rows.stream([one], work.settings.data, work.ledger) for one in opened]


def _place(row: Row) -> tuple[int, int]:
    return row.file, row.line


def _write(found: Iterable[_Found], sides: dict[str, _Side], work: _Work) -> None:
    """Tokenises rows in batches and writes them."""
    batch: list[_Found] = []
    for one in found:
        batch.append(one)
        if len(batch) == BATCH:
            _flush(batch, sides, work)
            batch.clear()
    _flush(batch, sides, work)


def _flush(batch: list[_Found], sides: dict[str, _Side], work: _Work) -> None:
    data = work.settings.data
    shortest, longest = data.get("min_tokens") or 0, data.get("max_tokens") or float("inf")
    policy = str(data.get("truncation") or "right")
    out: dict[str, list[store.Record]] = {name: [] for name in sides}
    for one, encoded in zip(batch, encode([one.row.value for one in batch], work.encoder), strict=True):
        row = one.row
        if isinstance(encoded, str):
            work.ledger.refuse(row, encoded)
            continue
        tokens = len(encoded.ids)
        if not shortest <= tokens <= longest:
            work.dropped["too_short" if tokens < shortest else "too_long"] += 1
            continue
        found = cut(encoded, work.settings.max_length, policy)
        if not found.parts:
            why = "over_max_length" if policy == "drop" and found.lost else "unsupervised"
            work.dropped[why] += 1
            work.example(why, _place(row))
            continue
        if one.side == "train":
            _look(encoded, found, row, work)
        side = sides[one.side]
        side.audit.add(row.value, encoded, found, audit.characters(row.value), row.file, row.line)
        out[one.side] += [(ids, labels, tokens, one.source, row.file, row.line) for ids, labels in found.parts]
        if one.side == "train":
            work.positions.extend([one.position] * len(found.parts))
            work.used[one.source] += 1
    for name, written in out.items():
        sides[name].writer.write(written)
    work.tell("reading", work.ledger.read, work.ledger.share())


def _look(encoded: Encoded, found: Cut, row: Row, work: _Work) -> None:
    """Counts what the gate asks of a training row and its tokens."""
    ids, special = encoded.ids, work.special
    if found.answers:
        work.example("cut_answers", _place(row))
    if audit.typed(row.value, special.pattern):
        work.typed += 1
        work.example("typed", _place(row))
    if encoded.merged:
        work.merged += 1
        work.example("merged", _place(row))
    work.largest_id = max(work.largest_id, max(ids, default=0))
    if special.unknown is not None:
        work.unknown += ids.count(special.unknown)
    if len(ids) > 1 and ids[0] == ids[1] == special.start:
        work.doubled_start += 1
    for _, labels in found.parts:
        work.ends_learned += not special.ids.isdisjoint(labels)


def _mixture(opened: list[Opened], evaluation: duplicates.Seen, split: bool, work: _Work) -> list[dict[int, int]]:
    """For each source which of its training rows are used: `{number of the row among them: place in the whole}`.

    The sources are read twice: only then is it known how many rows each gives after duplicates and split.
    """
    counts = [0] * len(opened)
    before = _Work(work.settings, work.encoder, Ledger(), work.tell, work.special)
    for found in _training(opened, before, evaluation, split):
        counts[found.source] += found.side == "train"
    chosen = mixture.choose(counts, [one.source for one in opened], int(work.settings.data.get("seed", 42)))
    limit = work.settings.data.get("max_samples")
    picks: list[dict[int, int]] = [{} for _ in opened]
    for position, (source, number) in enumerate(chosen[: int(limit)] if limit else chosen):
        picks[source][number] = position
    return picks


def _picked(found: Iterable[_Found], picks: list[dict[int, int]] | None, work: _Work) -> Iterator[_Found]:
    """The rows that the mixture uses, and all evaluation rows; without a mixture all."""
    counts: Counter[int] = Counter()
    for one in found:
        if picks is None or one.side != "train":
            yield one
            continue
        number = counts[one.source]
        counts[one.source] += 1
        position = picks[one.source].get(number)
        if position is None:
            work.dropped["capped"] += 1
        else:
            yield _Found(one.row, one.side, one.source, position)


def _report(
    work: _Work,
    sides: dict[str, _Side],
    packed: int | None,
    opened: list[Opened],
) -> dict[str, Any]:
    settings, ledger = work.settings, work.ledger
    counts = ledger.sources[-len(opened) :]

    def place(where: tuple[int, int]) -> str:
        return ledger.where(*where)

    def pairs(name: str) -> list[list[str]]:
        return [[place(a), place(b)] for a, b in work.examples.get(name, [])]

    out: dict[str, Any] = {
        "version": 1,
        "sources": [
            {
                "name": one.source.name,
                "format": one.format.NAME,
                "kind": one.format.KIND,
                "files": len(one.files),
                "bytes": one.bytes,
                "read": count.read,
                "bad": count.bad,
                "rows": count.rows,
                "used": work.used[number],
                "weight": one.source.weight,
                "max_rows": one.source.max_rows,
            }
            for number, (one, count) in enumerate(zip(opened, counts, strict=True))
        ],
        "files": list(zip(ledger.files, ledger.by_line, strict=True)),
        "bad_rows": {
            "read": ledger.read,
            "count": ledger.bad,
            "share": ledger.bad / ledger.read if ledger.read else 0.0,
            "examples": ledger.bad_rows[: rows.SHOWN],
        },
        "dropped": {name: work.dropped[name] for name in DROPPED},
        "left_out": {
            why: {"count": count, "examples": ledger.left_out_places.get(why, [])}
            for why, count in ledger.left_out.items()
        },
        "duplicates": {"examples": pairs("duplicates")},
        "leaked": {
            "count": work.leaks,
            "kept": settings.data.get("leakage") == "keep",
            "examples": pairs("leaked"),
        },
        "max_length": settings.max_length,
        "truncation": settings.data.get("truncation") or "right",
        "packing": settings.packed,
        "seen": {
            "ends_learned": work.ends_learned,
            "doubled_start": work.doubled_start,
            "unknown": work.unknown,
            "largest_id": work.largest_id,
            "typed": work.typed,
            "merged": work.merged,
            "places": {
                name: [place(p) for p in work.examples.get(name, [])]
                for name in ("typed", "merged", "unsupervised", "cut_answers")
            },
        },
        "train": None,
        "eval": None,
    }
    for name, side in sides.items():
        found = side.audit.report(packed if name == "train" else None)
        strange = [
            {"place": place(where), "where": where, "why": why, "tokens": tokens}
            for where, why, tokens in side.audit.strange()
        ]
        out[name] = {**found, "strangest": strange}
    return out
