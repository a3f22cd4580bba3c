"""Packs prepared rows into sequences of `max_length` tokens with TRL's own best-fit-decreasing packer, places kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nothing_tune.engine.prepare import store

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("seq_lengths", pa.list_(pa.int32())),  # tokens of each document of the sequence
        ("file", pa.list_(pa.int32())),  # where each document comes from
        ("line", pa.list_(pa.int32())),
    ]
)


def pack(rows: Path, target: Path, max_length: int) -> int:
    """Packs the rows of one Arrow file (as `store.Writer` writes them) into another; returns the number of sequences.

    The rows are at most `max_length` long, so that none is cut. `pack_dataset` looks at a thousand rows at a time.
    """
    from trl import pack_dataset

    places = [store.column(rows, name) for name in ("file", "line")]
    whole = store.opened(rows).select_columns(["input_ids", "labels"])
    scratch = [target.with_name(f"{target.name}.{name}") for name in ("numbered", "packed")]
    numbered = whole.with_format("arrow").map(
        _numbered, batched=True, with_indices=True, cache_file_name=str(scratch[0]), load_from_cache_file=False
    )
    packed = pack_dataset(
        numbered, max_length, "bfd", {"cache_file_name": str(scratch[1]), "load_from_cache_file": False}
    )
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as out:
        for table in packed.with_format("arrow").iter(batch_size=1000):
            out.write_table(_sequences(table, places))
    count = len(packed)
    for path in scratch:
        path.unlink()
    return count


def sequences(rows: Any, max_length: int) -> int:
    """How many sequences of `max_length` the rows of a dataset would pack into; only their lengths are looked at."""
    from datasets import Dataset
    from trl import pack_dataset

    lengths = lengths_of(rows)
    offsets = np.concatenate(([0], np.cumsum(np.minimum(lengths, max_length)))).astype(np.int64)
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(int(offsets[-1]), dtype=np.int8)))
    light = Dataset(pa.table({"input_ids": column}))
    return len(pack_dataset(light, max_length, "bfd", {"keep_in_memory": True, "load_from_cache_file": False}))


def lengths_of(rows: Any) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Tokens of each row of a prepared dataset, in order; of each packed row where it is packed. Only offsets are read, no tokens."""
    packed = "seq_lengths" in rows.column_names
    name = "seq_lengths" if packed else "input_ids"
    found: list[np.ndarray[Any, np.dtype[np.int32]]] = [np.zeros(0, dtype=np.int32)]
    for chunk in rows.data.table[name].chunks:
        lengths = chunk.flatten() if packed else chunk.value_lengths()
        found.append(lengths.to_numpy(zero_copy_only=False))
    return np.concatenate(found).astype(np.int32)


def _numbered(table: pa.Table, indices: list[int]) -> pa.Table:
    """Adds the number of each row, once a token: packing keeps columns of lists of equal length together."""
    ids = table["input_ids"].combine_chunks()
    counts = ids.value_lengths().to_numpy(zero_copy_only=False)
    numbers: np.ndarray[Any, np.dtype[np.int32]] = np.repeat(np.asarray(indices, dtype=np.int32), counts)
    return table.append_column("row", _like(numbers, counts))


def _sequences(table: pa.Table, places: list[np.ndarray[Any, Any]]) -> pa.Table:
    """The packed table with the place of each document instead of its number once a token."""
    lengths = table["seq_lengths"].combine_chunks()
    documents = lengths.flatten().to_numpy(zero_copy_only=False)
    starts = np.concatenate(([0], np.cumsum(documents)))[:-1]
    numbers = table["row"].combine_chunks().flatten().to_numpy(zero_copy_only=False)[starts]
    counts = lengths.value_lengths().to_numpy(zero_copy_only=False)
    plain = [table[name].combine_chunks().cast(SCHEMA.field(name).type) for name in ("input_ids", "labels")]
    where = [_like(place[numbers].astype(np.int32), counts) for place in places]
    return pa.table([*plain, lengths.cast(SCHEMA.field("seq_lengths").type), *where], schema=SCHEMA)


def _like(values: np.ndarray[Any, Any], counts: np.ndarray[Any, Any]) -> pa.ListArray:
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
