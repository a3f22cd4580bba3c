"""Rows that are there twice: exactly, after white space and Unicode forms are evened out, or nearly, by what is said in them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from nothing_tune.data.rows import Row

CONTENT = ("messages", "prompt", "completion", "text", "tools")
"""Columns that make a row what it is; others, such as an id, do not keep two rows apart."""
PERMUTATIONS = 128
"""Hash functions of a MinHash: the standard error of the similarity is at most 0.5/sqrt(128) = 0.044."""
SHINGLE_WORDS = 3
BATCH = 4096
"""Shingles that are hashed together: bounds the memory that a long row takes."""

P = TypeVar("P")

_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)

_WORD = re.compile(r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+")
"""A word; in scripts that are written without spaces a character."""


def key(value: Mapping[str, Any]) -> bytes:
    """A digest (16 bytes) of a canonical row's content: roles, text, tool calls and tools count.

    Text is compared in Unicode's form NFC, with runs of white space as one space and none at the ends.
    """
    content = [_even(value.get(name)) for name in CONTENT]
    return hashlib.blake2b(_ENCODER.encode(content).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _even(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join((value if value.isascii() else unicodedata.normalize("NFC", value)).split())
    if isinstance(value, Mapping):
        return {name: _even(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_even(inner) for inner in value]
    return value


class Near(Generic[P]):
    """Finds rows that are nearly the same among those that were added, by MinHash and locality-sensitive hashing (datasketch).

    Compared is what user, assistant and tools say, in lower case, as sets of three words in a row; instructions
    (`system`, `developer`) and tool definitions, which many rows share, are left out. Two rows whose sets have a Jaccard
    similarity well above `threshold` are found nearly always, well below nearly never; Broder 1997, Indyk and Motwani 1998.

    Args:
        threshold: Jaccard similarity from which two rows count as the same, above 0 up to 1.
    """

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]

        self.threshold = threshold
        self._empty: Any = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=zlib.crc32)
        self._index: Any = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
        self._places: list[P] = []
        self._sketches: list[Any] = []
        self._last: tuple[Any, Any] = (None, None)

    def find(self, value: Mapping[str, Any]) -> P | None:
        """The place of the earliest row that is nearly `value`; None when there is none, or nothing is said in it."""
        sketch = self._sketch(value)
        if sketch is None:
            return None
        alike = [n for n in self._index.query(sketch) if self._sketches[n].jaccard(sketch) >= self.threshold]
        return self._places[min(alike)] if alike else None

    def add(self, value: Mapping[str, Any], place: P) -> None:
        """Remembers a row under its place."""
        sketch = self._sketch(value)
        if sketch is not None:
            self._index.insert(len(self._places), sketch, check_duplication=False)
            self._places.append(place)
            self._sketches.append(sketch)

    def _sketch(self, value: Mapping[str, Any]) -> Any:
        if self._last[0] is not value:
            found = shingles(value)
            sketch: Any = self._empty.copy() if found else None
            for start in range(0, len(found), BATCH):
                sketch.update_batch(found[start : start + BATCH])
            self._last = (value, sketch)
        return self._last[1]


def shingles(value: Mapping[str, Any]) -> list[bytes]:
    """The different runs of three words (or fewer, where there are fewer) of what is said in a canonical row."""
    words = _WORD.findall(" ".join(_said(value)).lower())
    starts = range(max(len(words) - SHINGLE_WORDS + 1, min(len(words), 1)))
    return list(dict.fromkeys(" ".join(words[i : i + SHINGLE_WORDS]).encode("utf-8", "replace") for i in starts))


def _said(value: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a row: no instructions and no tool definitions; tool calls as JSON."""
    for name in ("messages", "prompt", "completion", "text"):
        part = value.get(name)
        if isinstance(part, str):
            yield part
        elif isinstance(part, list):
            for turn in part:
                if turn.get("role") in ("system", "developer"):
                    continue
                content = turn.get("content")
                if content:
                    yield content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
                if turn.get("tool_calls"):
                    yield json.dumps([call.get("function") for call in turn["tool_calls"]], ensure_ascii=False)


class Match(NamedTuple):
    """An earlier row that is the same: whether exactly or nearly, and its place (as `Row` has it)."""

    kind: str
    file: int
    line: int


class Seen:
    """Rows that came by, to find later ones that are the same. Takes some 150 bytes a row, and some 4,000 with `near`.

    Args:
        near: Jaccard similarity from which two rows count as the same, see `Near`; None for exact ones only.
    """

    def __init__(self, near: float | None = None) -> None:
        self._exact: dict[bytes, int] = {}
        self._near: Near[tuple[int, int]] | None = Near(near) if near else None

    def __len__(self) -> int:
        return len(self._exact)

    def find(self, row: Row) -> Match | None:
        """The earliest row that is the same; None when there is none."""
        return self._found(key(row.value), row)

    def add(self, row: Row) -> Match | None:
        """As `find`; a row that is new is remembered."""
        mark = key(row.value)
        found = self._found(mark, row)
        if found is None:
            self._exact[mark] = row.file << 48 | row.line
            if self._near:
                self._near.add(row.value, (row.file, row.line))
        return found

    def _found(self, mark: bytes, row: Row) -> Match | None:
        place = self._exact.get(mark)
        if place is not None:
            return Match("exact", place >> 48, place & (2**48 - 1))
        near = self._near.find(row.value) if self._near else None
        return Match("near", *near) if near else None
