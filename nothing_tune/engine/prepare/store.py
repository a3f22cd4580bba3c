"""Prepared rows on disk, found again by what they were made of: written beside, renamed in one step, shared between runs.

CACHE/prepared/KEY/  train.arrow  eval.arrow  report.json      KEY.lock: one process prepares, others wait for it
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nothing_tune.artifacts import read_json, write_json
from nothing_tune.artifacts.files import cache_root
from nothing_tune.errors import StorageError, UsageError

UNUSED_DAYS = 30
"""Prepared rows that no run has used for so long are removed when others are written."""
MAKING = ".making"
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("before", pa.int32()),  # tokens of the row before it was cut
        ("source", pa.int32()),
        ("file", pa.int32()),
        ("line", pa.int32()),
    ]
)


def key(parts: dict[str, Any]) -> str:
    """The name of what is made of `parts` (JSON-able): 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def folder(name: str) -> Path:
    """Where the prepared rows called `name` lie, or will."""
    return cache_root() / "prepared" / name


@contextlib.contextmanager
def making(target: Path) -> Iterator[Path | None]:
    """A folder to write into that becomes `target` when the block ends well; None when another process has made it meanwhile.

    Raises:
        StorageError: The cache cannot be written.
    """
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if complete(target):
                yield None
                return
            beside = target.with_name(f"{target.name}{MAKING}")
            shutil.rmtree(beside, ignore_errors=True)  # what a killed process left; the lock says that nobody writes it
            beside.mkdir()
            try:
                yield beside
                for path in beside.iterdir():
                    _sync(path)
                shutil.rmtree(target, ignore_errors=True)
                os.replace(beside, target)
                _sync(target.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
            _prune(target.parent)
    except OSError as error:
        raise StorageError(
            f"cannot keep prepared rows in {target.parent}: {error.strerror or error}",
            hint="free some space there, or set TUNE_CACHE_DIR to another folder",
        ) from error


def complete(target: Path) -> bool:
    """Whether `target` holds prepared rows whose files have the sizes that were written; marks them as used."""
    try:
        known = (read_json(target / "report.json") or {}).get("written") or {}
    except (OSError, UsageError):  # damaged: made again
        return False
    sizes = {name: (target / name).stat().st_size for name in known if (target / name).is_file()}
    if not known or sizes != known:
        return False
    with contextlib.suppress(OSError):
        os.utime(target)
    return True


def finish(beside: Path, report: dict[str, Any]) -> None:
    """Writes `report`, with the sizes of the files that lie beside it."""
    sizes = {path.name: path.stat().st_size for path in sorted(beside.glob("*.arrow"))}
    write_json(beside / "report.json", {**report, "written": sizes})


Record = tuple[list[int], list[int], int, int, int, int]
"""One row of `SCHEMA`: input_ids, labels, before, source, file, line."""


class Writer:
    """Appends rows to an Arrow stream file that `datasets` maps into memory."""

    def __init__(self, path: Path) -> None:
        self.rows = 0
        self._sink = pa.OSFile(str(path), "wb")
        self._out = pa.ipc.new_stream(self._sink, SCHEMA)

    def write(self, rows: Sequence[Record]) -> None:
        """Appends rows."""
        if not rows:
            return
        ids, labels, *numbers = zip(*rows, strict=True)
        columns = [lists(ids), lists(labels), *(pa.array(n, pa.int32()) for n in numbers)]
        self._out.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self.rows += len(rows)

    def close(self) -> None:
        """Ends the file."""
        self._out.close()
        self._sink.close()


def lists(values: Sequence[Sequence[int]]) -> pa.ListArray:
    """Lists of whole numbers as an Arrow column."""
    offsets: np.ndarray[Any, np.dtype[np.int32]] = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(v) for v in values], out=offsets[1:])
    flat = np.fromiter(itertools.chain.from_iterable(values), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def opened(path: Path) -> Any:
    """The `datasets.Dataset` in an Arrow file, mapped into memory rather than read."""
    from datasets import Dataset

    return Dataset.from_file(str(path))


def column(path: Path, name: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    """One column of whole numbers of an Arrow file."""
    found: list[np.ndarray[Any, np.dtype[np.int32]]] = [np.zeros(0, dtype=np.int32)]
    for table in opened(path).select_columns([name]).with_format("arrow").iter(batch_size=10_000):
        found.append(table[name].to_numpy())
    return np.concatenate(found)


def reorder(path: Path, order: Sequence[int]) -> None:
    """Rewrites an Arrow file of `SCHEMA` with only the rows of `order`, in that order."""
    chosen = opened(path).select(order).with_format("arrow")
    beside = path.with_name(f"{path.name}.ordered")
    with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as out:
        for table in chosen.iter(batch_size=1000):
            out.write_table(table.cast(SCHEMA))
    os.replace(beside, path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prune(root: Path) -> None:
    for entry in root.iterdir():
        days = 1 if entry.suffix == MAKING else UNUSED_DAYS  # what a killed process left, which nobody asked for again
        with contextlib.suppress(OSError):
            if entry.is_dir() and time.time() - entry.stat().st_mtime > days * 86400:
                shutil.rmtree(entry)
