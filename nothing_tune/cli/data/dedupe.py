"""`tune data dedupe`: rows without those that are there twice."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from nothing_tune.cli import console, options
from nothing_tune.cli.data import reading

HELP = "Removes rows that are there twice, exactly or nearly; the first of them stays."
EXAMPLES = (
    ("tune data dedupe rows.jsonl --to clean.jsonl", "what differs in white space alone is the same"),
    ("tune data dedupe rows.jsonl --near --to clean.jsonl", "nearly the same too"),
    ("tune data dedupe train.jsonl --against eval.jsonl --to clean.jsonl", "also what evaluation asks"),
)
EXITS = reading.EXITS
PAIRS = 5
"""Pairs of duplicates that are shown."""


def dedupe(
    sources: reading.Sources = None,
    to: reading.To = None,
    near: Annotated[bool, typer.Option("--near", help="Remove rows that are nearly the same, too.")] = False,
    similarity: Annotated[
        float,
        typer.Option(
            "--similarity",
            metavar="SHARE",
            min=0.1,
            max=1,
            help="With --near: from which Jaccard similarity, 0.1 to 1.",
        ),
    ] = 0.85,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="SOURCE",
            help="Remove rows that are in this source, too, read with the same options; may be given again.",
            autocompletion=options.complete_data,
        ),
    ] = None,
    format_: reading.Format = None,
    columns: reading.Columns = None,
    speaker: reading.Speaker = None,
    turns: reading.Turns = None,
    max_bad_rows: reading.MaxBadRows = 0.0,
    force: reading.Force = False,
    json: options.Json = False,
) -> None:
    """Writes the rows that are new, in their order."""
    from nothing_tune.data import card
    from nothing_tune.data.duplicates import Seen

    path = reading.target(to, force, "dedupe")
    threshold = similarity if near else None

    def opened(words: list[str] | None) -> reading.Reading:
        return reading.Reading(
            words, "dedupe", format_=format_, columns=columns, speaker=speaker, turns=turns, max_bad_rows=max_bad_rows,
            quiet=json,
        )  # fmt: skip

    source, other = opened(sources), opened(against) if against else None
    compared = reading.common_kind([source, *([other] if other else [])])
    apart, seen = Seen(threshold), Seen(threshold)
    for row in other.rows() if other else ():
        apart.add(reading.as_kind(row, compared))
    found: Counter[str] = Counter({"exact": 0, "near": 0, "against": 0})
    pairs: list[tuple[str, str, str]] = []
    with card.Writer(path, force) as out:
        for row in source.rows():
            twin, kind = (apart.find(reading.as_kind(row, compared)), "against") if other else (None, "")
            where = other.ledger.place(twin) if other and twin else ""
            if twin is None and (twin := seen.add(row)):
                kind, where = twin.kind, source.ledger.place(twin)
            if twin is None:
                out.add(row.value)
                continue
            found[kind] += 1
            if len(pairs) < PAIRS:
                pairs.append((source.ledger.place(row), where, kind))
        counts = {"duplicates": found["exact"], "near_duplicates": found["near"], "against": found["against"]}
        asked = {
            "near": threshold,
            "against": [one.label for one in other.opened] if other else None,
            "removed": counts,
        }
        written = {path: out.finish(source.card(**asked))}
    words = {"exact": "is", "near": "is nearly", "against": "is in the other:"}
    told = [("removed", _told(found, near, other is not None))]
    told += [("", console.printable(f"{place} {words[kind]} {twin}")) for place, twin, kind in pairs]
    source.show(written, json, told, removed=counts, examples=[list(pair) for pair in pairs])


def _told(found: Counter[str], near: bool, against: bool) -> str:
    parts = [console.plural(found["exact"], "duplicate")]
    parts += [console.plural(found["near"], "near duplicate")] if near else []
    parts += [f"{console.plural(found['against'], 'row')} of the other source"] if against else []
    return ", ".join(parts)
