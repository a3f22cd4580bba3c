"""`tune data split`: rows divided into training and evaluation rows."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.data import reading
from nothing_tune.errors import UsageError

HELP = "Divides rows into train.jsonl and eval.jsonl; rows that are appended later move none of these."
EXAMPLES = (
    ("tune data split rows.jsonl --to parts", "a tenth for evaluation"),
    ("tune data split rows.jsonl --eval 0.2 --stratify-by level --to parts", "a fifth of every level"),
    ("tune data split rows.jsonl --group-by author --to parts", "nobody's rows on both sides"),
)
EXITS = reading.EXITS
SAMPLE = 1000
"""Rows whose columns an error names."""
TOLERANCE = 0.02
"""By how much the share that is held out may differ from what was asked for without a word."""
STRATA = 30
"""Values that are shown with their counts."""


def split(
    sources: reading.Sources = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where train.jsonl and eval.jsonl go.", show_default=False),
    ] = None,
    share: Annotated[float, typer.Option("--eval", metavar="SHARE", help="Share of the rows for evaluation.")] = 0.1,
    seed: reading.Seed = 42,
    group_by: Annotated[
        str | None, typer.Option("--group-by", metavar="COLUMN", help="Rows with the same value stay together.")
    ] = None,
    stratify_by: Annotated[
        str | None, typer.Option("--stratify-by", metavar="COLUMN", help="Hold out the share of every value.")
    ] = None,
    format_: reading.Format = None,
    columns: reading.Columns = None,
    speaker: reading.Speaker = None,
    turns: reading.Turns = None,
    max_bad_rows: reading.MaxBadRows = 0.0,
    force: reading.Force = False,
    json: options.Json = False,
) -> None:
    """Reads the rows once and writes both sides; neither file appears before both are whole."""
    from nothing_tune.data import card, splits

    if not 0 < share < 1:
        raise UsageError(f"--eval must be above 0 and below 1, this is {share:g}", hint="a tenth is --eval 0.1")
    if to is None:
        raise UsageError("where to? --to is missing", hint="tune data split rows.jsonl --to parts")
    paths = {side: to / f"{side}.jsonl" for side in ("train", "eval")}
    for path in paths.values():
        card.check(path, force)
    source = reading.Reading(
        sources, "split", format_=format_, columns=columns, speaker=speaker, turns=turns, max_bad_rows=max_bad_rows,
        quiet=json,
    )  # fmt: skip
    splitter = splits.Splitter(share, seed, group_by, stratify_by)
    strata: dict[str, Counter[str]] = {}
    by = [column for column in dict.fromkeys((group_by, stratify_by)) if column]
    lacking: Counter[str] = Counter()
    sample: list[dict[str, Any]] = []
    with ExitStack() as stack:
        out = {side: stack.enter_context(card.Writer(path, force)) for side, path in paths.items()}
        for row in source.rows():
            side = splitter.side(row)
            out[side].add(row.value)
            if len(sample) < SAMPLE:
                sample.append(row.value)
            lacking.update(column for column in by if splits.lacks(row.value, column))
            if stratify_by:
                value = "-" if splits.lacks(row.value, stratify_by) else str(row.value[stratify_by])
                strata.setdefault(value, Counter())[side] += 1
        rows = {side: one.rows for side, one in out.items()}
        whole = sum(rows.values())
        nowhere = [column if column and lacking[column] == whole else None for column in (group_by, stratify_by)]
        with reading.told_as_options():
            splits.check_columns(sample, *nowhere)
        _check(rows, group_by)
        asked = {"eval": share, "seed": seed, "group_by": group_by, "stratify_by": stratify_by}
        counts = {value: {side: strata[value][side] for side in paths} for value in sorted(strata)}
        card_ = source.card(**asked, strata=counts)
        written = {paths[side]: one.finish(card_) for side, one in out.items()}
    held = rows["eval"] / whole
    told = [("held out", text) for text in _share(held, share, group_by, stratify_by)]
    told += [("", _lacking(lacking[column], column, column == group_by)) for column in by if lacking[column]]
    told += [
        (stratify_by or "", f"{value}: {count['train']:,} train, {count['eval']:,} eval")
        for value, count in list(counts.items())[:STRATA]
    ]
    if len(counts) > STRATA:
        told.append((stratify_by or "", f"{len(counts) - STRATA:,} more values"))
    facts = {"held_out": round(held, 6), "lacking": {column: lacking[column] for column in by}}
    source.show(written, json, told, **facts, **({"strata": counts} if stratify_by else {}))


def _share(held: float, asked: float, group_by: str | None, stratify_by: str | None) -> list[str]:
    """One line where the share that was held out is not what was asked for, and why."""
    if abs(held - asked) <= TOLERANCE:
        return []
    why = "the rows are few"
    if group_by:
        why = f"rows with the same {group_by} stay together"
    elif stratify_by:
        why = f"each {stratify_by} is divided by itself"
    return [f"{held * 100:.3g}% of the rows, and {asked * 100:.3g}% was asked for: {why}"]


def _lacking(rows: int, column: str, groups: bool) -> str:
    """How many rows have no column to split by, and what becomes of them."""
    if rows == 1:
        return f"1 row has no {column}: it {'is a group by itself' if groups else 'counts as one more value'}"
    fate = "each is a group by itself" if groups else "they count as one more value"
    return f"{rows:,} rows have no {column}: {fate}"


def _check(rows: dict[str, int], group_by: str | None) -> None:
    """Refuses a split in which a side is empty."""
    if not all(rows.values()):
        what = "group" if group_by else "row"
        whole = console.plural(sum(rows.values()), "row")
        raise UsageError(
            f"{whole} cannot be divided: no {what} is left for {'evaluation' if rows['train'] else 'training'}",
            hint=f"give more {what}s",
        )
