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
    source = reading.Reading(sources, "split", format_=format_, columns=columns, max_bad_rows=max_bad_rows, quiet=json)
    splitter = splits.Splitter(share, seed, group_by, stratify_by)
    strata: dict[str, Counter[str]] = {}
    with ExitStack() as stack:
        out = {side: stack.enter_context(card.Writer(path, force)) for side, path in paths.items()}
        for row in source.rows():
            side = splitter.side(row)
            out[side].add(row.value)
            if stratify_by:
                strata.setdefault(str(row.value.get(stratify_by, "-")), Counter())[side] += 1
        _check(source, {side: one.rows for side, one in out.items()}, group_by, stratify_by, strata)
        asked = {"eval": share, "seed": seed, "group_by": group_by, "stratify_by": stratify_by}
        counts = {value: {side: strata[value][side] for side in paths} for value in sorted(strata)}
        card_ = source.card(**asked, strata=counts)
        written = {paths[side]: one.finish(card_) for side, one in out.items()}
    told = [
        (stratify_by or "", f"{value}: {count['train']:,} train, {count['eval']:,} eval")
        for value, count in list(counts.items())[:STRATA]
    ]
    if len(counts) > STRATA:
        told.append((stratify_by or "", f"{len(counts) - STRATA:,} more values"))
    source.show(written, json, told, **({"strata": counts} if stratify_by else {}))


def _check(
    source: reading.Reading, rows: dict[str, int], group_by: str | None, stratify_by: str | None, strata: dict[str, Any]
) -> None:
    """Refuses a split in which a side is empty, or whose column is in no row."""
    if stratify_by and set(strata) == {"-"}:
        raise UsageError(f"no row has a column {stratify_by!r}", hint="--stratify-by names a column of plain values")
    if not all(rows.values()):
        what = "group" if group_by else "row"
        whole = console.plural(sum(rows.values()), "row")
        raise UsageError(
            f"{whole} cannot be divided: no {what} is left for {'evaluation' if rows['train'] else 'training'}",
            hint=f"give more {what}s",
        )
