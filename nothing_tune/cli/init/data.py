"""Looks at the data that an answer names: its format, about how many rows, what the first one says."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from nothing_tune.cli import console
from nothing_tune.errors import Problem, UsageError

ROWS_READ = 20_000
"""Rows that are read at most to look at data; behind them their number is told by the bytes."""
TURN_BYTES = 20
"""What a chat template adds to a turn, in bytes of text: about five tokens."""
SECONDS_READ = 2.0
"""Longest time that one look at data reads."""


@dataclass(frozen=True)
class Data:
    """Data as one look tells it.

    Attributes:
        source: What the recipe names: a file, a folder, a pattern, a hub id.
        columns: The format's column -> the file's; None where they are called alike.
        format: Name of the format; empty where it was not looked at.
        kind: Kind of its canonical rows; empty as above.
        rows: How many; None is unknown.
        about: Whether `rows` is told by the bytes.
        bad: Rows among those read that cannot be used; `rows` does not count them.
        first_bad: The first of them, with its place.
        lengths: Bytes of text in each row that was read.
        turns: Mean number of messages in a row; 0 where rows have none.
        tools: Share of the rows that have functions to call.
        speakers: Of a chat log: who speaks, the most talkative first.
        first: What the first row says, as `(who, text)`.
        note: Why nothing is known.
    """

    source: str
    columns: Mapping[str, str] | None = None
    format: str = ""
    kind: str = ""
    rows: int | None = None
    about: bool = False
    bad: int = 0
    first_bad: str = ""
    lengths: tuple[int, ...] = field(default=(), repr=False)
    turns: float = 0.0
    tools: float = 0.0
    speakers: tuple[str, ...] = ()
    first: tuple[tuple[str, str], ...] = ()
    note: str = ""

    def share_of_lengths(self, share: float) -> int | None:
        """Bytes of text that this share of the rows does not exceed; None where nothing was read."""
        ordered = sorted(self.lengths)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    @property
    def mean(self) -> float | None:
        """Mean bytes of text in a row; None where nothing was read."""
        return sum(self.lengths) / len(self.lengths) if self.lengths else None

    @property
    def told(self) -> str:
        """`1,204 rows of messages`."""
        if not self.format:
            return self.note
        if self.rows is None:
            return f"rows of {self.format}"
        many = f"{'about ' if self.about else ''}{self.rows:,} row{'' if self.rows == 1 else 's'} of {self.format}"
        return f"{many}, and {self.bad:,} bad" if self.bad else many

    @property
    def told_bad(self) -> str:
        """`3 of 423 rows are bad`; empty where none is."""
        return f"{self.bad:,} of {self.read:,} rows {'is' if self.bad == 1 else 'are'} bad" if self.bad else ""

    def with_other(self, other: Data) -> Data:
        """This data with the rows read, and the bad ones, of another source counted, too: a training counts both together."""
        return replace(
            self,
            about=self.about or other.about,
            bad=self.bad + other.bad,
            first_bad=self.first_bad or other.first_bad,
            lengths=(*self.lengths, *other.lengths),
        )

    @property
    def read(self) -> int:
        """Rows that were read, bad ones too."""
        return len(self.lengths) + self.bad


def split_columns(text: str) -> tuple[str, dict[str, str]]:
    """`("rows.csv", {"prompt": "question"})` of `rows.csv prompt=question`."""
    words = text.strip()
    columns: dict[str, str] = {}
    while found := re.fullmatch(r"(.+?)\s+([A-Za-z_]\w*)=(\S+)", words):
        words, columns = found[1], {found[2]: found[3], **columns}
    return words.strip("'\""), columns


@lru_cache(maxsize=16)
def look_at(text: str, speaker: str = "", look: bool = True) -> Data:
    """What lies at `text`, a source with its columns behind it: `rows.jsonl`, `rows.csv prompt=question`, `ORG/NAME:train`.

    Raises:
        UsageError: There is nothing, it cannot be read, or its rows are of no format that is known.
    """
    from nothing_tune.cli.data.reading import as_options
    from nothing_tune.data import sources

    name, columns = split_columns(text)
    if not name:
        raise UsageError(Problem("no data is named", hint="name a file, a folder, or a data set of the hub, ORG/NAME"))
    if not sources.is_file(name):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.+-]+){0,2}", name) or "/" not in name:
            raise UsageError(Problem(f"there is no data at {name}", hint=_near_data(name)))
        if not look:
            return Data(name, columns or None, note="on the hub, not looked at")
    value = {"source": name, "columns": columns} if columns else name
    opened, error = console.outcome(lambda: sources.open_all(value, {}, ""))
    if error:
        if not sources.is_file(name) and "cannot be reached" in error.problems[0].what:
            return Data(name, columns or None, note="on the hub, which cannot be reached from here: not looked at")
        absent = error.problems[0].what.startswith(("there is no data", "no file matches"))
        told = [replace(p, hint=_near_data(name) if absent else as_options(p.hint)) for p in error.problems]
        raise UsageError(*told) from error
    assert opened
    return _read(Data(name, columns or None, opened[0].format.NAME, opened[0].format.KIND), opened, speaker)


def as_words(hint: str, name: str) -> str:
    """A hint that proposes `--columns A=B` as it is typed in the wizard: `perhaps rows.csv A=B`; without the list of all formats."""
    hint = hint.partition("; rows need one of")[0]
    pairs = re.findall(r"--columns (\S+=[^\s;]+)", hint)
    if "--columns FORMAT'S" in hint:
        return f"name its columns behind it: {name} prompt=YOURS completion=YOURS, or text=YOURS"
    return f"perhaps: {name} {' '.join(pairs)}" if pairs else hint


def _read(told: Data, opened: Any, speaker: str) -> Data:
    from nothing_tune.data import rows

    if told.format == "transcript":
        told = replace(told, speakers=_speakers(opened))
        known = {name.casefold(): name for name in told.speakers}  # the question after this one tells of a wrong name
        speaker = known.get(speaker.casefold()) or (told.speakers[0] if told.speakers else "")
    ledger = rows.Ledger()
    settings = {"transcript": {"speaker": speaker, "turns": 8}} if told.format == "transcript" else {}
    lengths, turns, tools, first, until = [], 0, 0, None, time.monotonic() + SECONDS_READ
    whole = True
    pieces = rows.stream(opened, settings, ledger)  # kept: once it is gone, the ledger no longer knows how far it came
    for row in pieces:
        value = row.value
        first = first or value
        lengths.append(_bytes(value))
        turns += len(value.get("messages") or ())
        tools += bool(value.get("tools"))
        if len(lengths) >= ROWS_READ or (len(lengths) % 100 == 0 and time.monotonic() > until):
            whole = False
            break
    if not lengths:
        problems = [Problem(f"{where}: {why}") for where, why in ledger.bad_rows[:3]]
        raise UsageError(
            *problems, Problem(f"{told.source} has no row that can be used", hint="tune data inspect tells more")
        )
    hub = opened[0].hub
    share = ledger.share()
    count: int | None = len(lengths)
    if not whole:
        count = len(hub) if hub is not None else round(len(lengths) / share) if share else None
    if hub is None and not whole and count is not None:
        count = round(count, 1 - len(str(count)) + 1)
    return replace(
        told,
        rows=count,
        about=not whole and hub is None,
        bad=ledger.bad,
        first_bad=": ".join(ledger.bad_rows[0]) if ledger.bad_rows else "",
        lengths=tuple(lengths),
        turns=turns / len(lengths),
        tools=tools / len(lengths),
        first=_told_row(first or {}),
    )


def _speakers(opened: Any) -> tuple[str, ...]:
    from nothing_tune.data import files
    from nothing_tune.data.sources import rename
    from nothing_tune.formats import BadRow
    from nothing_tune.formats.transcript import convert

    seen: Counter[str] = Counter()
    for one in opened:
        for path in one.files:
            for _, row in islice(files.read(path), ROWS_READ):
                if isinstance(row, str):
                    continue
                try:
                    pieces = convert(rename(row, one.source.columns), {"transcript": {"speaker": ""}})
                except BadRow:
                    continue
                seen.update(str(said["speaker"]) for piece in pieces for said in piece["utterances"])
    return tuple(name for name, _ in seen.most_common(12))


def _bytes(value: Mapping[str, Any]) -> int:
    """UTF-8 bytes of what a model reads of a canonical row: texts, tool calls and functions as JSON, and what a template adds."""
    turns = [*(value.get("messages") or ())]
    for name in ("prompt", "completion", "text"):
        part = value.get(name)
        turns += part if isinstance(part, list) else [{"content": part}] if part else []
    total = len(json.dumps(value["tools"], ensure_ascii=False).encode()) if value.get("tools") else 0
    for turn in turns:
        content = turn.get("content") or ""
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        calls = json.dumps(turn["tool_calls"], ensure_ascii=False) if turn.get("tool_calls") else ""
        total += len(text.encode()) + len(calls.encode()) + TURN_BYTES
    return total


def _told_row(value: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    turns = value.get("messages")
    if isinstance(turns, list):
        return tuple((str(t.get("role")), _content(t)) for t in turns[:4])
    pairs = [("prompt", value.get("prompt")), ("completion", value.get("completion")), ("text", value.get("text"))]
    return tuple((name, _content(v)) for name, v in pairs if v)


def _content(value: Any) -> str:
    if isinstance(value, Mapping):
        text = value.get("content")
        if not text and value.get("tool_calls"):
            text = json.dumps(value["tool_calls"], ensure_ascii=False)
        value = text
    if isinstance(value, list):
        value = " / ".join(_content(v) for v in value)
    return " ".join(str(value or "").split())


def _near_data(name: str) -> str:
    """Files with a name like the one that is not there, else what data may be."""
    path = Path(name).expanduser()
    beside = list(near_files(path.parent)) + [p for p in near_files(Path()) if path.parent != Path()]
    near = get_close_matches(path.name, [p.name for p in beside], n=2, cutoff=0.4)
    found = list(dict.fromkeys(str(p) for n in near for p in beside if p.name == n))[:2]
    if found:
        return f"did you mean {' or '.join(found)}?"
    return "name a file, a folder, a pattern such as 'data/*.jsonl', or a data set of the hub, ORG/NAME"


def near_files(folder: Path) -> list[Path]:
    """Data files in a folder, those called `train` first, else by name; empty when there is none."""
    from nothing_tune.data import files

    try:
        names = (p for p in folder.iterdir() if files.suffix(p) in files.SUFFIXES and not p.name.startswith("."))
        found = sorted(names, key=lambda p: ("train" not in p.name, p.name))
    except OSError:
        return []
    named = (p for p in found if p.suffix != ".txt" and not p.name.endswith(files.CARD) and os.path.isfile(p))
    return [p for p in named if p.suffix != ".json" or _has_rows(p)]


def _has_rows(path: Path) -> bool:
    """Whether a JSON document begins as rows do: a list of objects, JSON lines, or an object of lists; a plan or a config does not."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as handle:
            start = handle.read(4096).lstrip()
    except OSError:
        return False
    if start.startswith("{"):
        line = start.partition("\n")[0].strip()
        return (line.endswith("}") and len(line) < len(start.rstrip())) or re.match(
            r"\{\s*\"[^\"]*\"\s*:\s*\[\s*\{", start
        ) is not None
    return re.match(r"\[\s*(\{|$)", start) is not None
