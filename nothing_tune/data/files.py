"""Data files of every kind as raw rows with line numbers: JSON lines, JSON, CSV, TSV, parquet, text; plain, .gz or .zst.

Everything but JSON documents and compressed parquet streams. What is wrong with one row is given in its place as a
clause; what makes the rest of a file unreadable is a `UsageError`, because the rows behind it would be lost unseen.
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from nothing_tune.data import encodings, lines, tables
from nothing_tune.data.streams import open_bytes, unpacked
from nothing_tune.errors import UsageError

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
"""What data files end in; `.gz` or `.zst` may follow."""
DOCUMENT_BYTES = 2**30
"""The largest JSON document that is no JSON lines, in bytes after decompression: it is parsed as a whole."""
BATCH_ROWS = 1000
CARD = ".card.json"
"""What the cards of written files end in (`card.write`): they lie beside data and are none."""

RawRow = dict[str, Any] | str
"""A row as its file has it, or what is wrong with it as one clause."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def suffix(path: Path | str) -> str:
    """The kind of a file by its name: one of `SUFFIXES`, without what says how it is compressed; else what it ends in."""
    name = Path(path)
    return (Path(name.stem) if name.suffix in lines.COMPRESSED else name).suffix


def resolve(name: str) -> list[Path]:
    """The data files that `name` means: itself, those of a folder, or those that a glob matches, sorted; empty when there is none.

    A folder's files are those in it and in all folders inside it, sorted by their paths. Its `.txt` files count only when
    it holds no other data, since they are often notes. Cards, hidden files and hidden folders are passed over.

    Raises:
        UsageError: The name is a file of a kind that is not known, no regular file (a device, a pipe), or cannot be read.
    """
    path = Path(os.path.expanduser(name))
    if os.path.isfile(path):
        if suffix(path) not in SUFFIXES:
            raise UsageError(
                f"{name} is no data file that is known",
                hint=f"data files end in {', '.join(SUFFIXES)}, and may be compressed: {', '.join(lines.COMPRESSED)}",
            )
        return [path]
    if os.path.isdir(path):
        found = sorted((p for p in _below(path) if _is_data(p)), key=lambda p: p.parts)
        return [p for p in found if suffix(p) != ".txt"] or found
    if os.path.exists(path):
        raise UsageError(f"{name} is no regular file", hint="write what it gives into a file first")
    return [p for p in map(Path, sorted(glob.glob(str(path), recursive=True))) if _is_data(p)]


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and in the folders inside it, linked ones too, none twice; hidden folders are passed over."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}", hint="mend the permissions") from error

    seen = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(place))
        folders[:] = [
            name
            for name in sorted(folders)
            if not name.startswith(".") and os.path.realpath(os.path.join(place, name)) not in seen
        ]
        yield from (Path(place, name) for name in names)


def _is_data(path: Path) -> bool:
    return (
        suffix(path) in SUFFIXES and not path.name.startswith(".") and not path.name.endswith(CARD) and path.is_file()
    )


def by_line(path: Path) -> bool:
    """Whether the numbers that `read` gives are lines of the file (else they are rows: JSON documents and parquet).

    Raises:
        UsageError: The file cannot be read.
    """
    kind = suffix(path)
    if kind in (".jsonl", ".ndjson", ".json"):
        with _told(path), open_bytes(path) as handle:
            return _is_lines(handle, path, kind)
    return kind != ".parquet"


def read(path: Path, watch: list[IO[bytes]] | None = None) -> Iterator[tuple[int, RawRow]]:
    """`(number, row)` for each row, numbered from 1 by line or by row as `by_line` says; a string tells what is wrong with a row.

    Blank lines are no rows. A row of a table that spans several lines has the number of its first. `watch` gets the
    open file, whose `tell()` says how far reading has come (not of parquet).

    Raises:
        UsageError: The file cannot be read to its end, its header is unusable, or it is in another encoding than UTF-8
            (see `encodings.refuse`).
    """
    asked = False
    for number, row in _read(path, watch):
        if not asked and isinstance(row, str) and row.startswith(encodings.NOT_UTF8):
            asked = True
            with _told(path):
                encodings.refuse(path, number)
        yield number, row


def _read(path: Path, watch: list[IO[bytes]] | None) -> Iterator[tuple[int, RawRow]]:
    kind = suffix(path)
    with _told(path):
        if kind == ".parquet":
            yield from _parquet(path)
            return
        if kind in (".csv", ".tsv"):
            with open_bytes(path, watch) as handle:
                lines.check_start(handle, path)
                yield from tables.rows(handle, path, "," if kind == ".csv" else "\t")
            return
        if kind == ".txt":
            with open_bytes(path, watch) as handle:
                lines.check_start(handle, path)
                yield from _texts(handle)
            return
        with open_bytes(path) as handle:
            by_lines = _is_lines(handle, path, kind)
        with open_bytes(path, watch) as handle:
            yield from _json_lines(handle) if by_lines else _document(handle, path)


class _told:  # noqa: N801 - reads as a word of the `with` line
    """Turns what goes wrong with the file itself into a `UsageError` that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raises the `UsageError`."""
        again, name = "download or copy it again", "zstd" if self.path.suffix == ".zst" else "gzip"
        if isinstance(error, gzip.BadGzipFile) and "CRC" not in str(error) and "length" not in str(error):
            raise UsageError(
                f"{self.path} is no gzip file, or has something else behind its end", hint=again
            ) from error
        if isinstance(error, gzip.BadGzipFile | zlib.error):
            raise UsageError(f"{self.path} is no {name} file, or is damaged", hint=again) from error
        if isinstance(error, EOFError):
            raise UsageError(f"{self.path} is cut off: its compressed data has no end", hint=again) from error
        if isinstance(error, OSError):
            raise UsageError(
                f"cannot read {self.path}: {error.strerror or lines.lowered(error)}",
                hint="mend the permissions, or name another file",
            ) from error


def _is_lines(handle: IO[bytes], path: Path, kind: str) -> bool:
    """Whether a JSON file holds one value a line, whatever its name says; judged by its first line that is not blank."""
    lines.check_start(handle, path)
    start = cast(Any, handle).peek(64)[:64].lstrip()[:1]
    for _, line in lines.lines(handle):
        if line is None:
            return start != b"[" and (start != b"{" or kind != ".json")
        text = line.decode("utf-8", "replace").strip()
        if not text:
            continue
        if text == "{" and kind != ".json":
            raise UsageError(
                f"{path} has objects that are spread over several lines, and JSON lines have one a line",
                hint=f"convert it: jq -c . {path.name} > new.jsonl",
            )
        if text[0] != "[" and kind != ".json":
            return True
        return any(more is None or not more.isspace() for _, more in lines.lines(handle)) and _whole(text)
    return True


def _whole(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines(handle: IO[bytes]) -> Iterator[tuple[int, RawRow]]:
    _skip_mark(handle)
    for number, line in lines.lines(handle):
        if line is None:
            yield number, lines.too_long()
            continue
        if line.isspace():
            continue
        text, wrong = lines.decoded(line)
        row = wrong if wrong is not None else parse_row(text.strip())
        if isinstance(row, str) and not line.endswith(b"\n") and row.startswith("not JSON"):
            row = f"{row}; it is the last line and has no end, so the file may be cut off"
        yield number, row


def _skip_mark(handle: IO[bytes]) -> None:
    if cast(Any, handle).peek(3)[:3] == b"\xef\xbb\xbf":
        handle.read(3)


def parse_row(text: str) -> RawRow:
    """The JSON object that `text` holds, or what is wrong with it: not JSON, no object, a key twice, NaN, half a surrogate pair."""
    row = _parsed(text)
    if isinstance(row, _Wrong):
        return row.why
    return row if isinstance(row, dict) else f"a row must be a JSON object, this is {_called(row)}"


class _Wrong(ValueError):
    """What JSON allows to say and a row must not, as a clause."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


_FAULTS = {
    "Expecting value": "a value is expected",
    "Expecting property name enclosed in double quotes": "a key in double quotes is expected",
    "Extra data": "there is more behind the value",
    "Illegal trailing comma before end of array": "a comma with nothing behind it",
    "Illegal trailing comma before end of object": "a comma with nothing behind it",
    "Invalid control character at": "a tab, line break or other control character that is not escaped",
    "Unterminated string starting at": "a string without an end",
}
"""What Python says of text that is no JSON, in our words."""


def _parsed(text: str) -> Any:
    """The JSON value, or a `_Wrong`."""
    try:
        value = _DECODER.decode(text)
    except _Wrong as wrong:
        return wrong
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        return _Wrong(f"not JSON ({_FAULTS.get(error.msg, lines.lowered(error.msg))} at {place})")
    except RecursionError:
        return _Wrong("is nested too deeply")
    except ValueError:  # the interpreter's limit on the digits of integers
        return _Wrong("holds a number with too many digits")
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            return _Wrong(f"holds half of a surrogate pair (\\u{ord(error.object[error.start]):04x})")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise _Wrong(f"the key `{twice}` stands twice in one object")
    return out


def _constant(word: str) -> Any:
    raise _Wrong(f"{word} is no JSON value")


def _float(digits: str) -> float:
    value = float(digits)
    if value - value != 0:
        raise _Wrong(f"the number {digits} is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _called(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _document(handle: IO[bytes], path: Path) -> Iterator[tuple[int, RawRow]]:
    """The rows of one JSON document: an array, or an object with one list of objects inside, or one object that is a row."""
    _skip_mark(handle)
    data = handle.read(DOCUMENT_BYTES + 1)
    if len(data) > DOCUMENT_BYTES:
        raise UsageError(
            f"{path} is one JSON document of more than {DOCUMENT_BYTES // 2**20} MiB, which is read as a whole",
            hint=f"use JSON lines: jq -c '.[]' {path.name} > new.jsonl",
        )
    text, wrong = lines.decoded(data)
    value = _Wrong(wrong) if wrong is not None else _parsed(text)
    if isinstance(value, _Wrong):
        hint = "mend the file at that place"
        name = encodings.likely(data) if value.why.startswith(encodings.NOT_UTF8) else None
        if name:
            raise UsageError(f"{path} is not UTF-8, but likely {name}", hint=lines.iconv(path, name))
        if "more behind" in value.why:
            hint = f"a file holds one document, or one object a line: jq -c . {path.name} > new.jsonl"
        raise UsageError(f"{path} is not readable as JSON: {value.why}", hint=hint)
    if isinstance(value, dict):
        value = _inside(value, path)
    if not isinstance(value, list):
        raise UsageError(
            f"{path} must hold a list of JSON objects, it holds {_called(value)}",
            hint='write [{"messages": [...]}, ...], or one object a line',
        )
    for number, row in enumerate(value, 1):
        yield number, row if isinstance(row, dict) else f"a row must be a JSON object, this is {_called(row)}"


def _inside(value: dict[str, Any], path: Path) -> list[Any]:
    """The one list of objects in an object such as `{"data": [...]}`; `[value]` when the object is itself a row."""
    lists = {k: v for k, v in value.items() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)}
    rows = {k: v for k, v in lists.items() if k not in ("messages", "conversations", "tools")}
    if len(rows) > 1:
        raise UsageError(
            f"{path} holds several lists of objects: {', '.join(rows)}",
            hint=f"keep one: jq -c '.{next(iter(rows))}[]' {path.name} > new.jsonl",
        )
    return next(iter(rows.values())) if rows and len(lists) == len(rows) else [value]


def _texts(handle: IO[bytes]) -> Iterator[tuple[int, RawRow]]:
    for number, line in lines.lines(handle):
        if line is None:
            yield number, lines.too_long()
        elif not line.isspace():
            text, wrong = lines.decoded(line)
            yield number, wrong or {"text": text.rstrip("\r\n")}


def _parquet(path: Path) -> Iterator[tuple[int, RawRow]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with (
            unpacked(path) if path.suffix in lines.COMPRESSED else open(path, "rb") as source,
            parquet.ParquetFile(source) as table,
        ):
            number = 0
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise UsageError(
            f"{path} is no parquet file, or is damaged: {lines.lowered(error)[:160]}", hint="download or copy it again"
        ) from error
