"""What `tune data convert`, `split`, `dedupe` and `mix` share: their options, rows while they are read, and the summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nothing_tune.cli import console, options
from nothing_tune.errors import UsageError

EXITS = (0, 2, 74)
SHOWN = 5
"""Bad rows that a summary names."""
TOLD_ROWS = 500
"""Rows between two looks at whether the progress line is drawn anew."""

T = TypeVar("T")

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="Rows of any format: files, folders, patterns such as 'data/*.jsonl', or data sets of the hub, ORG/NAME:SPLIT.",
        autocompletion=options.complete_data,
        show_default=False,
    ),
]
To = Annotated[
    Path | None,
    typer.Option(
        "--to",
        metavar="FILE",
        help="What is written: a name that ends in .jsonl, .jsonl.gz or .jsonl.zst.",
        show_default=False,
    ),
]
Format = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="What the rows look like [default: looked for].")
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="A=B", help="The format's column A is called B in the file; may be given again."),
]
Speaker = Annotated[
    str | None, typer.Option("--speaker", metavar="NAME", help="Of a chat log: whose lines are the assistant's.")
]
Turns = Annotated[
    int | None,
    typer.Option("--turns", metavar="N", help="Of a chat log: turns of one conversation, 2 or more [default: 8]."),
]
MaxBadRows = Annotated[
    float,
    typer.Option("--max-bad-rows", metavar="SHARE", min=0, max=1, help="Share of the rows that may be bad, 0 to 1."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Another number chooses other rows.")]

OPTIONS = {
    "data.format": "--format",
    "data.columns": "--columns",
    "data.transcript.speaker": "--speaker",
    "data.transcript.turns": "--turns",
    "data.max_bad_rows": "--max-bad-rows",
    "data.group_by": "--group-by",
    "data.stratify_by": "--stratify-by",
}
"""What a setting of recipes is called as an option of these commands."""
_COLUMNS = re.compile(r"data\.columns=\{([^{}]*)\}")
_SET = re.compile(r"\bset (data\.[a-z_.]*[a-z_]) to ")
_GIVEN = re.compile(r"\b(data\.[a-z_.]*[a-z_])=(?=\S)")
_KEY = re.compile(r"\bdata\.[a-z_.]*[a-z_]")
_OVERRIDE = re.compile(r"~?(?P<key>[a-z_]+(?:\.[a-z_]+)+)=.*", re.DOTALL)


def as_options(text: str) -> str:
    """`text`, written for recipes, as it is for the command line: `data.columns={completion: chosen}` is
    `--columns completion=chosen`, `set data.format to text` is `give --format text`."""
    text = _COLUMNS.sub(lambda found: " ".join(f"--columns {pair}" for pair in _pairs(found[1])), text)
    text = _SET.sub(lambda found: f"give {OPTIONS[found[1]]} " if found[1] in OPTIONS else found[0], text)
    text = _GIVEN.sub(lambda found: f"{OPTIONS[found[1]]} " if found[1] in OPTIONS else found[0], text)
    text = _KEY.sub(lambda found: OPTIONS.get(found[0], found[0]), text)
    return re.sub(r"\bset (?=--)", "give ", text)


def _pairs(columns: str) -> list[str]:
    """`["prompt=question"]` of `prompt: question`."""
    return ["=".join(part.strip(" '\"") for part in pair.split(":", 1)) for pair in columns.split(",")]


@contextmanager
def told_as_options() -> Iterator[None]:
    """Lets problems that name settings of recipes name the options of the command line."""
    try:
        yield
    except UsageError as error:
        found = [replace(p, what=as_options(p.what), hint=as_options(p.hint)) for p in error.problems]
        raise type(error)(*found) from error


def refuse_overrides(words: Iterable[Any]) -> None:
    """Refuses words that are overrides of recipes, such as `data.format=text`, and names the option that does it here."""
    from nothing_tune.data import files

    for word in words:
        found = _OVERRIDE.fullmatch(word) if isinstance(word, str) else None
        if found is None or Path(word).exists() or files.suffix(found["key"]) in files.SUFFIXES:
            continue
        cure = f"here it is {as_options(word)}"
        if as_options(word).startswith(word[:5]) or (found["key"] == "data.columns" and not _COLUMNS.fullmatch(word)):
            cure = f"here there are options: {', '.join(list(OPTIONS.values())[:5])}"
        raise UsageError(f"{word} is an override of recipes", hint=cure)


class Reading:
    """Sources that are opened, and what has been read of them.

    Attributes:
        opened: The sources.
        kind: What rows are: those of the sources, or `messages` where prompts stand beside conversations.
        settings: What was asked for, for the card.
        ledger: Counts of the last reading.
    """

    def __init__(
        self,
        sources: Sequence[Any] | None,
        command: str,
        *,
        format_: str | None = None,
        columns: Sequence[str] | None = None,
        speaker: str | None = None,
        turns: int | None = None,
        max_bad_rows: float = 0.0,
        quiet: bool = False,
    ) -> None:
        from nothing_tune.data.rows import Ledger
        from nothing_tune.data.sources import open_all

        if not sources:
            raise UsageError("which rows? no source is named", hint=f"tune data {command} rows.csv --to new.jsonl")
        refuse_overrides(sources)
        if turns is not None and turns < 2:
            raise UsageError(
                f"--turns must be 2 or more, this is {turns}",
                hint="one turn asks and one answers: --turns 2 makes pairs, 8 is the default",
            )
        mapped = mapping(columns)
        wanted = {"format": format_, "columns": mapped, "transcript": _given(speaker=speaker, turns=turns)}
        self.command, self.settings = command, {"max_bad_rows": max_bad_rows, **wanted}
        with told_as_options():
            self.opened = open_all(list(sources), {k: v for k, v in wanted.items() if v}, key="")
        self.ledger, self.quiet, self.max_bad_rows = Ledger(), quiet, max_bad_rows
        self.kind = common_kind([self])

    def rows(self) -> Iterator[Any]:
        """All canonical rows, from the beginning, with a progress line on a terminal; too many bad ones end in a `UsageError`."""
        from nothing_tune.data import rows

        self.ledger = rows.Ledger(total=sum(one.bytes for one in self.opened))
        with told_as_options():
            found = rows.stream(self.opened, self.settings, self.ledger)
            yield from self._watched(self._of_one_kind(found, self.ledger))
            rows.refuse(self.ledger, self.max_bad_rows)

    def again(self) -> list[Iterator[Any]]:
        """The rows once more, one stream for each source; counted nowhere."""
        from nothing_tune.data import rows

        found = []
        for one in self.opened:
            ledger = rows.Ledger()
            found.append(self._of_one_kind(rows.stream([one], self.settings, ledger), ledger))
        return found

    def _of_one_kind(self, found: Iterator[Any], ledger: Any) -> Iterator[Any]:
        """The rows as `kind`; those that cannot be are bad ones."""
        from nothing_tune.formats import check

        for row in found:
            whole = as_kind(row, self.kind)
            if whole is not row and (why := check(self.kind, whole.value)):
                ledger.refuse(row, f"it cannot be a row of {self.kind}: {why}")
            else:
                yield whole

    def _watched(self, found: Iterable[T]) -> Iterator[T]:
        from nothing_tune.cli.data.inspect import Progress

        line = Progress(quiet=True)
        line.on = console.is_terminal() and not self.quiet
        try:
            for number, row in enumerate(found):
                if number % TOLD_ROWS == 0:
                    line.draw({"what": "reading", "rows": self.ledger.read, "share": self.ledger.share()})
                yield row
        finally:
            line.clear()

    def card(self, **settings: Any) -> dict[str, Any]:
        """The card of what is written: command, sources with their digests, and settings."""
        from nothing_tune.data.sources import identity

        return {
            "command": f"tune data {self.command}",
            "sources": [
                {
                    "name": one.label,
                    "format": one.format.NAME,
                    "identity": identity(one.source),
                    **self.ledger.counts(one),
                }
                for one in self.opened
            ],
            "settings": {k: v for k, v in {**self.settings, **settings}.items() if v not in (None, {}, [])},
            **({"left_out": dict(self.ledger.left_out)} if self.ledger.left_out else {}),
        }

    def data(self, written: Mapping[Path, Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """The summary for a program."""
        return {
            "written": [
                {"path": str(path), "rows": card["rows"], "bytes": path.stat().st_size, "sha256": card["sha256"]}
                for path, card in written.items()
            ],
            "sources": [
                {"name": one.label, "format": one.format.NAME, "kind": one.format.KIND, **self.ledger.counts(one)}
                for one in self.opened
            ],
            "bad_rows": [list(pair) for pair in self.ledger.bad_rows],
            "left_out": dict(self.ledger.left_out),
            **more,
        }

    def lines(self, written: Mapping[Path, Mapping[str, Any]], *more: tuple[str, str]) -> list[str]:
        """The summary for people: what was read, what happened to it (`more`: labels and texts), what was written."""
        paint = console.ink()
        told: list[tuple[str, str]] = []
        for one in self.opened:
            count = self.ledger.counts(one)
            bad = paint.warn(f", {count['bad']:,} bad") if count["bad"] else ""
            told.append(("read", f"{one.label}: {console.plural(count['read'], 'row')} of {one.format.NAME}{bad}"))
        for where, why in self.ledger.bad_rows[:SHOWN]:
            told.append(("bad", console.printable(f"{where}: {why}")))
        if self.ledger.bad > SHOWN:
            told.append(("bad", f"{self.ledger.bad - SHOWN:,} more"))
        for why, rows in self.ledger.left_out.items():
            told.append(("left out", f"{console.plural(rows, 'row')}: {why}"))
        told += more
        for path, card in written.items():
            size = console.size(path.stat().st_size)
            told.append(("wrote", f"{paint.ok(str(path))}: {console.plural(card['rows'], 'row')}, {size}"))
        return [f"{paint.dim(label.ljust(10))}{text}" for label, text in told]

    def show(
        self, written: Mapping[Path, Mapping[str, Any]], json: bool, told: Sequence[tuple[str, str]], **more: Any
    ) -> None:
        """Prints the summary, for people or as JSON."""
        if json:
            console.out_json(self.data(written, **more))
        else:
            console.out(*self.lines(written, *told))


def common_kind(all_read: Sequence[Reading]) -> str:
    """The kind in which the rows of all can stand together; `UsageError` where there is none."""
    from nothing_tune.data.kinds import united

    opened = [one for reading in all_read for one in reading.opened]
    kind = united(one.format.KIND for one in opened)
    if kind is None:
        told = ", ".join(f"{one.label} gives {one.format.KIND}" for one in opened)
        raise UsageError(
            f"rows of text cannot stand with others in one file: {told}",
            hint="to train on all of them, name them as a list in a recipe's data.train",
        )
    return kind


def as_kind(row: Any, kind: str) -> Any:
    """A `Row` as one of `kind`, where that is `messages`; else `row` itself."""
    from nothing_tune.data.kinds import as_messages

    return replace(row, value=as_messages(row.value)) if kind == "messages" and "messages" not in row.value else row


def target(to: Path | None, force: bool, command: str) -> Path:
    """Where the result goes, refused at once when it cannot."""
    from nothing_tune.data import card

    if to is None:
        raise UsageError("where to? --to is missing", hint=f"tune data {command} rows.csv --to new.jsonl")
    card.check(to, force)
    return to


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def mapping(columns: Sequence[str] | None) -> dict[str, str]:
    """What `--columns A=B ...` says: the format's column -> the file's column; `UsageError` for what names none."""
    out = {}
    for pair in columns or ():
        name, sign, theirs = pair.partition("=")
        if not sign or not name or not theirs:
            raise UsageError(
                f"{pair!r} names no column", hint="write --columns A=B: the format's column A is called B in the file"
            )
        out[name] = theirs
    return out
