"""Canonical rows of opened sources, one after the other, each with its place; what is wrong with a row goes into the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, Protocol

from nothing_tune.data import files
from nothing_tune.data.sources import Opened, names_below, place, rename
from nothing_tune.errors import Problem, UsageError
from nothing_tune.formats import BadRow, Joining, LeftOut

KEPT_BAD_ROWS = 1000
"""Bad rows that a ledger names; more are only counted."""
SHOWN = 10
"""Bad rows that `refuse` names."""
LEFT_OUT_PLACES = 5
"""Places that a ledger keeps of the rows that are left out for one reason."""
UNITED = ("messages", "conversations", "tools", "prompt", "completion")
"""Columns whose nested objects Arrow gives the fields of all rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """A canonical row and where it is from.

    Attributes:
        value: The row itself.
        file: Index into `Ledger.files`.
        line: Line or row of that file, from 1 (see `files.by_line`); where an example spans several, the first.
        source: Index into `Ledger.sources`.
        name: The file's name below the folder that all files of the source share, or the hub data set's with its split.
    """

    value: dict[str, Any]
    file: int
    line: int
    source: int = 0
    name: str = ""


class Placed(Protocol):
    """What has a place: a `Row`, or what remembers one."""

    @property
    def file(self) -> int:
        """Index into `Ledger.files`."""

    @property
    def line(self) -> int:
        """Line or row, from 1."""


@dataclass
class Count:
    """What was read of one source: raw rows, bad ones among them, canonical rows that came of the good ones."""

    opened: Opened
    read: int = 0
    bad: int = 0
    rows: int = 0


@dataclass
class Ledger:
    """What `stream` has read so far; one ledger may serve several streams, whose files follow one another.

    Attributes:
        files: Names of the files, and of hub data sets, as places show them.
        by_line: Whether the rows of each of them have lines.
        sources: Counts of each source.
        bad_rows: `(place, why)` of the first `KEPT_BAD_ROWS` bad rows.
        left_out: Rows that are not bad and yet in no example, counted by why (see `formats.LeftOut`).
        left_out_places: The first `LEFT_OUT_PLACES` places of each.
        total: Bytes of all that is going to be read, for `share`; 0 counts what has been given to `stream` until now.
    """

    total: int = 0
    files: list[str] = field(default_factory=list)
    by_line: list[bool] = field(default_factory=list)
    sources: list[Count] = field(default_factory=list)
    bad_rows: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_places: dict[str, list[str]] = field(default_factory=dict)
    _bytes: int = 0
    _behind: int = 0
    _watch: list[IO[bytes]] = field(default_factory=list)
    _measured: bool = True

    @property
    def read(self) -> int:
        """Raw rows read, bad ones too."""
        return sum(count.read for count in self.sources)

    @property
    def bad(self) -> int:
        """Bad rows among them."""
        return sum(count.bad for count in self.sources)

    def place(self, row: Placed) -> str:
        """Where a row stands: `FILE:LINE`, or `FILE, row N` for JSON documents, parquet and hub data sets."""
        return self.where(row.file, row.line)

    def where(self, file: int, line: int) -> str:
        """As `place`, for an index into `files` and a line."""
        return place(self.files[file], line, self.by_line[file])

    def counts(self, opened: Opened) -> dict[str, int]:
        """`files`, `bytes`, and `read`, `bad`, `rows` (canonical ones) of one source."""
        mine = [count for count in self.sources if count.opened is opened]
        return {
            "files": len(opened.files),
            "bytes": opened.bytes,
            "read": sum(count.read for count in mine),
            "bad": sum(count.bad for count in mine),
            "rows": sum(count.rows for count in mine),
        }

    def share(self) -> float | None:
        """How much of the bytes of all sources is read, 0 to 1; None when that is not known (hub data sets)."""
        whole = self.total or self._bytes
        if not self._measured or not whole:
            return None
        now = self._watch[0].tell() if self._watch and not self._watch[0].closed else 0
        return min((self._behind + now) / whole, 1.0)

    def refuse(self, row: Row, why: str) -> None:
        """Counts a row that turned out bad after `stream` gave it, with what is wrong as one clause."""
        self.sources[row.source].rows -= 1
        self._bad(row.file, row.line, row.source, why)

    def _leave_out(self, file: int, line: int, why: str) -> None:
        self.left_out[why] += 1
        places = self.left_out_places.setdefault(why, [])
        if len(places) < LEFT_OUT_PLACES:
            places.append(self.where(file, line))

    def _bad(self, file: int, line: int, source: int, why: str) -> None:
        self.sources[source].bad += 1
        if len(self.bad_rows) < KEPT_BAD_ROWS:
            self.bad_rows.append((self.where(file, line), why))


def stream(opened: Sequence[Opened], settings: Mapping[str, Any], ledger: Ledger) -> Iterator[Row]:
    """The canonical rows of `opened` in order. Nothing is raised for a bad row: it is counted and named in `ledger`.

    Of a source with `max_rows` the first so many canonical rows are given, and nothing behind them is read or counted (of
    a chat log, the conversation that the last of them is from).

    Rows of parquet files and of hub data sets lose the nulls inside `messages`, `conversations`, `tools`, `prompt` and
    `completion`: Arrow gives every nested object the fields of all others, so that there a null says "not there".

    Args:
        opened: What `sources.open_all` found.
        settings: The recipe's `data`; what formats need of it is handed on (`transcript`).
        ledger: Gets its files and sources at once, before the first row is asked for, and counts as rows are read.

    Raises:
        UsageError: A file cannot be read to its end.
    """
    parts = []
    for one in opened:
        parts.append(_Part(one, len(ledger.sources), len(ledger.files), ledger._bytes))
        ledger.sources.append(Count(one))
        ledger._bytes += one.bytes
        ledger._measured &= one.hub is None
        ledger.files += one.labels
        ledger.by_line += [files.by_line(path) for path in one.files] or [False]
    options = {"transcript": settings.get("transcript") or {}}
    return (row for part in parts for row in part.rows(options, ledger))


@dataclass(frozen=True)
class _Part:
    """One source in a stream: its number, that of its first file, and the bytes of the sources before it."""

    opened: Opened
    source: int
    first_file: int
    behind: int

    def rows(self, options: Mapping[str, Any], ledger: Ledger) -> Iterator[Row]:
        """Its canonical rows, at most `max_rows` of them."""
        count, kind = ledger.sources[self.source], self.opened.format
        ledger._behind = self.behind
        parts: Sequence[Path | None] = self.opened.files or (None,)
        names = names_below(self.opened.files) or [self.opened.label]
        absent: UsageError | None = None
        most, given = self.opened.source.max_rows, 0
        for file, (path, name) in enumerate(zip(parts, names, strict=True), self.first_file):
            pieces: Iterator[tuple[int, Any]]
            pieces = self._converted(file, path, options, ledger)
            if isinstance(kind, Joining):
                pieces = kind.join(pieces, options)
            try:
                for line, value in pieces:
                    if isinstance(value, LeftOut):
                        ledger._leave_out(file, line, value.why)
                        continue
                    count.rows += 1
                    given += 1
                    yield Row(value, file, line, self.source, name)
                    if given == most:
                        ledger._behind = self.behind + self.opened.bytes
                        ledger._watch.clear()
                        return
            except UsageError as error:
                # joined file by file, and the wanted speaker need not be in each of them
                if not error.problems[0].key.startswith("data.transcript."):
                    raise
                absent = absent or error
            ledger._behind += path.stat().st_size if path is not None else 0
            ledger._watch.clear()
        if absent is not None and not count.rows:
            raise absent

    def _converted(
        self, file: int, path: Path | None, options: Mapping[str, Any], ledger: Ledger
    ) -> Iterator[tuple[int, Any]]:
        raw: Iterable[tuple[int, files.RawRow]]
        raw = enumerate(self.opened.hub, 1) if path is None else files.read(path, ledger._watch)
        arrow = path is None or files.suffix(path) == ".parquet"
        count, columns, convert = ledger.sources[self.source], self.opened.source.columns, self.opened.format.convert
        for line, row in raw:
            count.read += 1
            if isinstance(row, str):
                ledger._bad(file, line, self.source, row)
                continue
            row = rename(row, columns)
            if arrow:
                row = {name: without_nulls(value) if name in UNITED else value for name, value in row.items()}
            try:
                values = convert(row, options)
            except BadRow as why:
                ledger._bad(file, line, self.source, str(why))
                continue
            for value in values:
                yield line, value


def without_nulls(value: Any) -> Any:
    """`value` without the keys of its objects, at any depth, that hold null."""
    if isinstance(value, Mapping):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(inner) for inner in value]
    return value


def refuse(ledger: Ledger, max_bad_rows: float = 0.0) -> None:
    """As `refuse_share`, for what a ledger counted."""
    refuse_share(ledger.bad, ledger.read, ledger.bad_rows, max_bad_rows)


def enough(bad: int, read: int) -> str:
    """The `data.max_bad_rows` that lets `bad` of `read` rows pass: their share, rounded up to two digits, such as `0.036`."""
    share = Fraction(bad, read)
    step = Fraction(1)
    while share < 10 * step and step > Fraction(1, 10**12):
        step /= 10
    return f"{float(-(-share // step) * step):.12g}"


def refuse_share(bad: int, read: int, named: Sequence[Sequence[str]], max_bad_rows: float = 0.0) -> None:
    """Ends in a `UsageError` that names up to 10 bad rows when their share of the rows read is above `max_bad_rows` (0 to 1).

    Args:
        bad: Bad rows.
        read: Rows read, bad ones too.
        named: `(place, why)` of some of the bad rows.
        max_bad_rows: The share that may be bad.
    """
    problem = too_many(bad, read, max_bad_rows, min(len(named), SHOWN))
    if problem is not None:
        raise UsageError(*(Problem(f"{where}: {why}") for where, why in named[:SHOWN]), problem)


def too_many(bad: int, read: int, max_bad_rows: float, shown: int | None = None) -> Problem | None:
    """What is said of `bad` rows of `read` when their share is above `max_bad_rows`, else None; `shown` of them are named before it."""
    if not bad or bad / read <= max_bad_rows:
        return None
    more = f", the first {shown} are named" if shown is not None and bad > shown else ""
    allowed = "none may be" if not max_bad_rows else f"{max_bad_rows:.3%} may be"
    return Problem(
        f"{bad:,} of {read:,} row{'' if read == 1 else 's'} {'is' if bad == 1 else 'are'} bad, and {allowed}{more}",
        key="data.max_bad_rows",
        hint=f"mend them, or set data.max_bad_rows to {enough(bad, read)}, which leaves them out",
    )
