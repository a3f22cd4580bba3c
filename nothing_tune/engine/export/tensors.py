"""safetensors files read and written tensor by tensor, so that memory does not grow with the file.

Format: https://github.com/huggingface/safetensors#format (read 2026-11): eight bytes with the header's length, the header as
JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from nothing_tune.errors import StorageError
from nothing_tune.outputs.weights import Entry, header

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
NAMES = {name: str(dtype).removeprefix("torch.") for name, dtype in TYPES.items()}
__all__ = ["CHUNK", "NAMES", "TYPES", "Content", "Entry", "chunks", "header", "load", "pieces", "sample", "write"]

CHUNK = 2**20
"""Bytes that are copied at a time."""


def chunks(path: Path, entry: Entry) -> Iterator[bytes]:
    """The bytes of one tensor, `CHUNK` at a time. `StorageError` where the file ends too early."""
    try:
        with open(path, "rb") as handle:
            handle.seek(entry.begin)
            left = entry.size
            while left:
                data = handle.read(min(CHUNK, left))
                if not data:
                    raise StorageError(f"{path} ended while it was read", hint="was it changed in the meantime?")
                left -= len(data)
                yield data
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def load(path: Path, entry: Entry) -> torch.Tensor:
    """One tensor, in memory of its own (not mapped, so that it is gone when it is dropped)."""
    out = torch.empty(entry.shape, dtype=_type(path, entry))
    if not out.numel():
        return out
    flat = memoryview(out.reshape(-1).view(torch.uint8).numpy())
    try:
        with open(path, "rb", buffering=0) as handle:
            handle.seek(entry.begin)
            at = 0
            while at < len(flat):
                count = handle.readinto(flat[at:])
                if not count:
                    raise StorageError(f"{path} ended while it was read", hint="was it changed in the meantime?")
                at += count
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    return out


def sample(path: Path, entry: Entry, count: int) -> torch.Tensor:
    """`count` numbers of a tensor, evenly spread over its flat order from the first on: `flat[:: n // count][:count]`."""
    kind = _type(path, entry)
    number = prod(entry.shape)
    step = max(1, number // count)
    with open(path, "rb") as handle:
        data = b"".join(
            os.pread(handle.fileno(), kind.itemsize, entry.begin + i * kind.itemsize)
            for i in range(0, number, step)[:count]
        )
    return torch.frombuffer(bytearray(data), dtype=kind) if data else torch.empty(0, dtype=kind)


def _type(path: Path, entry: Entry) -> torch.dtype:
    if entry.dtype not in TYPES:
        raise StorageError(f"{path} has numbers of type {entry.dtype}, which cannot be read here")
    return TYPES[entry.dtype]


Content = Callable[[], Iterator[bytes]]
"""Gives the bytes of a tensor, piece by piece."""


def write(
    path: Path, planned: Mapping[str, tuple[str, tuple[int, ...]]], content: Callable[[str], Iterator[bytes]],
    wrote: Callable[[int], None],
) -> tuple[int, str]:  # fmt: skip
    """Writes a file with the tensors of `planned` (name -> type and shape), in order, and has it on the disk.

    Args:
        content: Gives the bytes of a tensor by its name.
        wrote: Told the bytes of every piece that is written.

    Returns:
        Size in bytes and sha256.

    Raises:
        StorageError: The disk refuses. What was written of the file is removed.
    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape) in planned.items():
        size = prod(shape) * TYPES[kind].itemsize
        table[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    total = hashlib.sha256()
    try:
        with open(path, "wb") as handle:
            for data in (len(head).to_bytes(8, "little"), head):
                handle.write(data)
                total.update(data)
            for name in planned:
                begin = handle.tell()
                for data in content(name):
                    handle.write(data)
                    total.update(data)
                    wrote(len(data))
                expected = table[name]["data_offsets"]
                assert handle.tell() - begin == expected[1] - expected[0], name
            handle.flush()
            os.fsync(handle.fileno())
            size = handle.tell()
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror}", hint="free some space, then the same command goes on"
        ) from error
    return size, total.hexdigest()


def pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor in memory, `CHUNK` at a time."""
    if not tensor.numel():
        return
    flat = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    for at in range(0, len(flat), CHUNK):
        yield flat[at : at + CHUNK]
