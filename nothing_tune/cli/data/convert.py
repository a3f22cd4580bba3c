"""`tune data convert`: rows of any format as rows that are trained on, in one file."""

from __future__ import annotations

from nothing_tune.cli import options
from nothing_tune.cli.data import reading

HELP = "Converts rows of any format to the rows that are trained on, as JSON lines with a card beside them."
EXAMPLES = (
    ("tune data convert alpaca.json --to rows.jsonl", "the format is found by looking at the rows"),
    ("tune data convert qa.csv --columns prompt=question --columns completion=answer --to rows.jsonl", "other names"),
    ("tune data convert log.csv --speaker JERRY --to rows.jsonl.zst", "a chat log in which JERRY is the assistant"),
)
EXITS = reading.EXITS


def convert(
    sources: reading.Sources = None,
    to: reading.To = None,
    format_: reading.Format = None,
    columns: reading.Columns = None,
    speaker: reading.Speaker = None,
    turns: reading.Turns = None,
    max_bad_rows: reading.MaxBadRows = 0.0,
    force: reading.Force = False,
    json: options.Json = False,
) -> None:
    """Reads all sources one after the other and writes their rows."""
    from nothing_tune.data import card

    path = reading.target(to, force, "convert")
    source = reading.Reading(
        sources, "convert", format_=format_, columns=columns, speaker=speaker, turns=turns, max_bad_rows=max_bad_rows,
        quiet=json,
    )  # fmt: skip
    with card.Writer(path, force) as out:
        for row in source.rows():
            out.add(row.value)
        written = {path: out.finish(source.card())}
    source.show(written, json, [])
