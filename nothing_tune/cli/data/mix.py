"""`tune data mix`: rows of several sources in one file, by weight or with a limit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from nothing_tune.cli import options
from nothing_tune.cli.data import reading
from nothing_tune.errors import UsageError

HELP = "Mixes sources by weight or with a limit each, evenly interleaved and no row twice."
EXAMPLES = (
    ("tune data mix chat.jsonl=2 code.jsonl=1 --to mixed.jsonl", "twice as many rows of chat as of code"),
    ("tune data mix chat.jsonl code.jsonl:5000 --to mixed.jsonl", "all of chat, the first 5000 of code"),
)
EXITS = reading.EXITS
WORD = re.compile(r"(?P<source>.+?)(?:=(?P<weight>[0-9.]+(?:e-?[0-9]+)?))?(?::(?P<most>[0-9]+))?")


def mix(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE[=WEIGHT][:N]...",
            help="Rows of any format, as in tune data convert; with =WEIGHT the source's part of the mixture, with :N at most "
            "its first N rows. All sources have a weight, or none.",
            autocompletion=options.complete_data,
            show_default=False,
        ),
    ] = None,
    to: reading.To = None,
    seed: reading.Seed = 42,
    format_: reading.Format = None,
    columns: reading.Columns = None,
    speaker: reading.Speaker = None,
    turns: reading.Turns = None,
    max_bad_rows: reading.MaxBadRows = 0.0,
    force: reading.Force = False,
    json: options.Json = False,
) -> None:
    """Counts the rows of each source, chooses, and writes what is chosen."""
    from nothing_tune.data import card, mixture

    path = reading.target(to, force, "mix")
    reading.refuse_overrides(sources or ())
    source = reading.Reading(
        [parsed(word) for word in sources or ()], "mix", format_=format_, columns=columns, speaker=speaker, turns=turns,
        max_bad_rows=max_bad_rows, quiet=json,
    )  # fmt: skip
    counts = [0] * len(source.opened)
    for row in source.rows():
        counts[row.source] += 1
    named = [one.source for one in source.opened]
    chosen = mixture.choose(counts, named, seed)
    shares = mixture.told(counts, named)
    with card.Writer(path, force) as out:
        for value in _picked(source.again(), chosen):
            out.add(value)
        asked = [{"name": s.label, "weight": s.weight, "max_rows": s.max_rows} for s in named]
        written = {path: out.finish(source.card(seed=seed, mixture=asked))}
    used = mixture.amounts(counts, named)
    mixed = [{"name": s.label, "rows": n, "used": m} for s, n, m in zip(named, counts, used, strict=True)]
    source.show(written, json, [("mixed", line) for line in shares], mixture=mixed)


def parsed(word: str) -> str | dict[str, Any]:
    """The source that one word of the command line means; a file that is called like the whole word is that file."""
    match = WORD.fullmatch(word)
    if match is None or Path(word).exists() or not (match["weight"] or match["most"]):
        return word
    try:
        weight = float(match["weight"]) if match["weight"] else None
    except ValueError as error:
        raise UsageError(
            f"{match['weight']!r} in {word!r} is no weight", hint="a weight is a number: rows.jsonl=2"
        ) from error
    return {"source": match["source"], "weight": weight, "max_rows": int(match["most"]) if match["most"] else None}


def _picked(streams: list[Iterator[Any]], chosen: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """The chosen rows in their order; the rows of one source come in the order of its stream."""
    taken = [0] * len(streams)
    for number, wanted in chosen:
        row = None
        while taken[number] <= wanted:
            row = next(streams[number], None)
            taken[number] += 1
        if row is None:
            raise UsageError("a source changed while it was read", hint="mix again when nothing writes to it any more")
        yield row.value
