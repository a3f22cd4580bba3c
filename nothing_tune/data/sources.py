"""Sources of rows as a recipe or a command names them: parsed, found, and their format seen.

A source is a file, a folder, a glob or the id of a data set on the hub, as a name or as a mapping with more about it.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from nothing_tune import formats
from nothing_tune.data import digests, files
from nothing_tune.data.hub import hub_problem, reachable
from nothing_tune.errors import Problem, UsageError
from nothing_tune.formats import Format

KEYS = ("source", "weight", "max_rows", "format", "columns", "split", "revision")
"""What a source that is a mapping may say."""
SNIFFED = 1000
"""Rows that are read at most to find `formats.SAMPLE` good ones."""
SHOWN = 10
"""Bad rows that an error names."""


@dataclass(frozen=True)
class Source:
    """One source of rows.

    Attributes:
        name: A file, folder or glob, or the id of a data set on the hub without its split.
        weight: Its part of the mixture relative to the other sources' (above 0); None where there is no mixture.
        max_rows: Its first so many rows are used; None for all.
        format: The name of a format, or `auto`: looked for.
        columns: The format's column -> the file's column; None where columns are called as the format wants them.
        split: Split of a hub data set; None is `train`.
        revision: Branch, tag or commit of a hub data set; None is its main branch.
        subset: Configuration of a hub data set that has several; None is its default one.
    """

    name: str
    weight: float | None = None
    max_rows: int | None = None
    format: str = "auto"
    columns: Mapping[str, str] | None = None
    split: str | None = None
    revision: str | None = None
    subset: str | None = None

    @property
    def label(self) -> str:
        """The name as it is shown: `rows.jsonl`, `org/name:train`, `org/name:subset:train`."""
        if is_file(self.name):
            return self.name
        return ":".join(filter(None, (self.name, self.subset, self.split or "train")))


@dataclass(frozen=True)
class Opened:
    """A source that was found and whose format is known.

    Attributes:
        source: What was asked for.
        label: Its name as it is shown.
        format: The format of its rows.
        files: Its files in the order in which they are read; empty for a hub data set.
        hub: The `datasets.Dataset` of a hub data set; None for files.
        bytes: Size of its files together as they lie on the disk; 0 for a hub data set.
    """

    source: Source
    label: str
    format: Format
    files: tuple[Path, ...] = ()
    hub: Any = field(default=None, compare=False)
    bytes: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of its parts as places show them: its files, or the hub's id with the split."""
        return tuple(map(str, self.files)) or (self.label,)


def is_file(name: str) -> bool:
    """Whether a source is meant as a file, folder or glob rather than as the id of a data set on the hub.

    It is when it ends like a data file, starts like a path, has more than one slash or a wildcard, or exists.
    """
    return (
        files.suffix(name) in files.SUFFIXES
        or name.startswith((".", "/", "~"))
        or any(c in name for c in "*?[")
        or name.count("/") > 1
        or os.path.exists(name)
    )


def parse(value: Any, settings: Mapping[str, Any] | None = None, key: str = "data.train") -> tuple[Source, ...]:
    """The sources that `value` (a name, a mapping, a list of both, or None for none) asks for.

    Args:
        value: What `data.train` or `data.eval` holds.
        settings: The recipe's `data`: `format` and `columns` count where a source does not say its own.
        key: What the value is called in errors (`data.train.2` is its second source); empty on a command line.

    Raises:
        UsageError: With every problem at once: an unknown key, a value of the wrong kind, weights on some sources only.
    """
    if value is None:
        return ()
    several = isinstance(value, list | tuple)
    problems: list[Problem] = []
    out = []
    for number, one in enumerate(value if several else [value], 1):
        source = _source(one, settings or {}, f"{key}.{number}" if several and key else key, problems)
        if source is not None:
            out.append(source)
    weighed = [s.weight is not None for s in out]
    if any(weighed) and not all(weighed):
        bare = ", ".join(s.label for s, has in zip(out, weighed, strict=True) if not has)
        problems.append(
            Problem(f"{_lead(key)}some sources have a weight, but not {bare}", key, hint="weigh all or none")
        )
    if problems:
        raise UsageError(*problems)
    return tuple(out)


def _source(value: Any, settings: Mapping[str, Any], key: str, problems: list[Problem]) -> Source | None:
    given: Any = {"source": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        problems.append(
            Problem(
                f"{_lead(key)}a source is a name or a mapping with `source`, this is {_called(value)}",
                key,
                hint="such as rows.jsonl or {source: rows.jsonl, max_rows: 1000}",
            )
        )
        return None
    before = len(problems)
    for name in given:
        if name not in KEYS:
            near = get_close_matches(str(name), KEYS, n=1, cutoff=0.5)
            cure = f"did you mean {near[0]}?" if near else f"a source may have {', '.join(KEYS)}"
            problems.append(Problem(f"{_lead(key)}a source has no key {name!r}", _under(key, name), hint=cure))
    name, split = given.get("source"), given.get("split")
    weight, most = given.get("weight"), given.get("max_rows")
    kind, columns = given.get("format"), given.get("columns")
    named = isinstance(name, str) and bool(name.strip())
    for word, bad, wants, cure in (
        ("source", not named, "a file, folder, glob or hub id", "give a file, folder, glob or hub id"),
        (
            "weight",
            weight is not None and not (_is_number(weight) and 0 < weight < float("inf")),
            "a number above 0",
            "a weight of 2 takes twice the rows of a weight of 1; to use no row of a source, remove the source",
        ),
        (
            "max_rows",
            most is not None and not (_is_number(most) and most == int(most) >= 1),
            "a whole number from 1",
            "remove it to use all rows, or remove the source to use none",
        ),
        (
            "format",
            kind not in (None, "auto", *formats.names()),
            f"one of auto, {', '.join(formats.names())}",
            "auto looks at the rows",
        ),
        (
            "columns",
            columns is not None and not _is_names(columns),
            "a mapping: the format's column, the file's column",
            "such as {prompt: question, completion: answer}",
        ),
        ("split", split is not None and not isinstance(split, str), "text", "such as train"),
        ("revision", not isinstance(given.get("revision"), str | None), "text", "a branch, tag or commit in quotes"),
    ):
        if bad:
            said = (
                "is missing" if word == "source" and name is None else f"must be {wants}, this is {_told(given[word])}"
            )
            whose = f" of {name}" if named else ""
            problems.append(Problem(f"{_lead(key)}`{word}`{whose} {said}", _under(key, word), hint=cure))
    if len(problems) > before or not isinstance(name, str):
        return None
    subset = None
    if not is_file(name) and ":" in name and "${" not in name:
        name, *behind = name.split(":")
        if len(behind) > 2:
            what = f"{_lead(key)}{given['source']!r} is no hub id"
            problems.append(Problem(what, key, hint="write ORG/NAME:SPLIT or ORG/NAME:SUBSET:SPLIT"))
        if split and split != behind[-1]:
            what = f"{_lead(key)}two splits are named, {behind[-1]} and {split}"
            problems.append(Problem(what, _under(key, "split"), hint="keep one of them"))
        subset, split = behind[0] if len(behind) > 1 else None, behind[-1]
    if is_file(name) and (split or given.get("revision")):
        word = "split" if split else "revision"
        problems.append(
            Problem(
                f"{_lead(key)}{name} is a file, and only a hub data set has a {word}",
                _under(key, word),
                hint=f"remove {word}",
            )
        )
    return Source(
        name,
        None if weight is None else float(weight),
        None if most is None else int(most),
        kind or settings.get("format") or "auto",
        columns if columns is not None else settings.get("columns"),
        split,
        given.get("revision"),
        subset,
    )


def _lead(key: str) -> str:
    return f"{key}: " if key else ""


def _under(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0


def _is_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(x, str) for pair in value.items() for x in pair)


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return repr(value) if isinstance(value, str | int) else _called(value)


def _called(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


def identity(source: Source) -> str:
    """A digest of what a source holds: its files' names and bytes, or the hub data set's revision and fingerprint.

    Names are those below the folder that all files share: it may be called otherwise, or lie elsewhere.

    Raises:
        UsageError: There is no such source, or it cannot be read.
    """
    whole = hashlib.sha256()
    if is_file(source.name):
        found = _found(source, "")
        for path, name in zip(found, names_below(found), strict=True):
            whole.update(f"{name}\0{digests.digest(path)}\n".encode())
    else:
        data = _from_hub(source, "")
        whole.update(f"{source.label}\0{source.revision}\0{data._fingerprint}".encode())
    return whole.hexdigest()


def names_below(paths: Sequence[Path]) -> list[str]:
    """The names of files below the folder that all of them share; they stay when that folder moves."""
    if not paths:
        return []
    shared = os.path.commonpath([path.absolute().parent for path in paths])
    return [path.absolute().relative_to(shared).as_posix() for path in paths]


def open_all(value: Any, settings: Mapping[str, Any] | None = None, key: str = "data.train") -> list[Opened]:
    """Finds every source of `value` (as `parse` takes it) and the format of its rows.

    Raises:
        UsageError: A source is missing, empty, or of no format that is known; no source is named.
    """
    parsed = parse(value, settings, key)
    if not parsed:
        raise UsageError(
            Problem(
                "no data is named",
                key=key,
                hint=f"{f'set {key} to' if key else 'name'} a file or the name of a data set on the hub",
            )
        )
    return [_open(source, key) for source in parsed]


def _open(source: Source, key: str) -> Opened:
    if is_file(source.name):
        paths, data = _found(source, key), None
    else:
        paths, data = (), _from_hub(source, key)
    raw = islice(_first_rows(source, paths, data), SNIFFED)
    good: list[dict[str, Any]] = []
    bad: list[Problem] = []
    for place, row in raw:
        if isinstance(row, str):
            bad.append(Problem(f"{place}: {row}", key))
        else:
            good.append(row)
        if len(good) == formats.SAMPLE:
            break
    if not good and bad:
        cure = "mend the rows"
        if paths and files.suffix(paths[0]) in (".jsonl", ".ndjson"):
            cure = "each line is one JSON object; plain text is read from a file that ends in .txt"
        raise UsageError(*bad[:SHOWN], Problem(f"{source.label} has no row that can be read", key, hint=cure))
    if not good:
        raise UsageError(Problem(f"{source.label} has no rows", key, hint="name data that has some"))
    _check_columns(source, good, key)
    mapped = [rename(row, source.columns) for row in good]
    kind = formats.detect(mapped, source.label) if source.format == "auto" else formats.find(source.format)
    return Opened(source, source.label, kind, paths, data, sum(p.stat().st_size for p in paths))


def _first_rows(source: Source, paths: Sequence[Path], data: Any) -> Iterator[tuple[str, files.RawRow]]:
    if data is not None:
        yield from (("", row) for row in data)
    for path in paths:
        lines = files.by_line(path)
        for number, row in files.read(path):
            yield place(str(path), number, lines), row


def raw(source: Source, key: str) -> Iterator[tuple[str, files.RawRow]]:
    """`(place, raw row)` of a source, whatever its rows look like: its first `max_rows`, its columns renamed.

    Raises:
        UsageError: There is no such source, or it cannot be read.
    """
    if is_file(source.name):
        rows = _first_rows(source, _found(source, key), None)
    else:
        data = _from_hub(source, key)
        rows = ((place(source.label, number, False), row) for number, row in enumerate(data, 1))
    for where, row in islice(rows, source.max_rows):
        yield where, row if isinstance(row, str) else rename(row, source.columns)


def place(label: str, number: int, lines: bool) -> str:
    """Where a row stands: `FILE:LINE`, or `FILE, row N` where rows have no lines."""
    return f"{label}:{number}" if lines else f"{label}, row {number}"


def rename(row: dict[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
    """`row` with its columns called as the format calls them; a column that is missing stays missing."""
    if not columns:
        return row
    taken = set(columns.values())
    out = {name: value for name, value in row.items() if name not in taken}
    out.update({name: row[theirs] for name, theirs in columns.items() if theirs in row})
    return out


def _check_columns(source: Source, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    have = list(dict.fromkeys(name for row in rows for name in row))
    for wanted, theirs in (source.columns or {}).items():
        if theirs not in have:
            near = get_close_matches(theirs, have, n=1, cutoff=0.6)
            cure = f"did you mean {near[0]}?" if near else f"it has {', '.join(have[:20])}"
            raise UsageError(
                Problem(
                    f"{source.label} has no column {theirs!r}, which is to be `{wanted}`",
                    _under(key, "columns"),
                    hint=cure,
                )
            )


def _found(source: Source, key: str) -> tuple[Path, ...]:
    """The files of a source; `UsageError` says where they were looked for."""
    found = files.resolve(source.name)
    if found:
        return tuple(found)
    raise UsageError(Problem(absent(source.name), key=key, hint="name a file or folder that exists"))


def absent(name: str) -> str:
    """What is told of a file, folder or glob that holds no data: one clause with where it was looked for."""
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        return f"there is no data at {name}: {path.absolute()} holds no file that ends in {', '.join(files.SUFFIXES)}"
    if any(c in name for c in "*?["):
        if next(glob.iglob(str(path), recursive=True), None) is not None:
            return f"no data file matches {name}: what matches does not end in {', '.join(files.SUFFIXES)}"
        return f"no file matches {name}: looked for {path.absolute()}"
    return f"there is no data at {name}: looked for {path.absolute()}"


def _from_hub(source: Source, key: str) -> Any:
    """The rows of a hub data set, memory-mapped, as a `datasets.Dataset`."""
    split = source.split or "train"
    try:
        return _loaded(source.name, source.subset, split, source.revision)
    except Exception as error:  # datasets raises a dozen kinds; hub_problem tells them apart
        problem = hub_problem(error, source.name, key, what="data set")
        said = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, ValueError) and "config name" in said.lower():
            found = re.search(r"\[(.*?)\]", said)
            what = f"data set {source.name} has several subsets{f': {found[1]}' if found else ''}"
            problem = Problem(what, key, hint=f"write {source.name}:SUBSET:train")
        elif isinstance(error, ValueError) and "split" in said.lower():
            what = f"data set {source.name} has no split {split}: {said}"
            problem = Problem(what, key, hint=f"write {source.name}:SPLIT")
        raise UsageError(problem) from error


@lru_cache(maxsize=8)
def _loaded(name: str, subset: str | None, split: str, revision: str | None) -> Any:
    offline = os.environ.get("HF_HUB_OFFLINE", "0") != "0"
    if not offline and not {"datasets", "huggingface_hub"} & sys.modules.keys() and not reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"  # else the hub's client tries for half a minute; it reads this when imported
    from datasets import load_dataset

    return load_dataset(name, subset, split=split, revision=revision)
