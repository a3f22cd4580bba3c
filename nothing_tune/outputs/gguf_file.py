"""What the header of a GGUF file says, read without llama.cpp: facts about the model, its tensors, and whether the file is whole.

Format: docs/gguf.md of ggml, version 3 (read 2026-11-21), little-endian. Long lists (the vocabulary) are passed over unless asked for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nothing_tune.errors import UsageError
from nothing_tune.outputs.quantizations import BLOCKS

MAGIC = b"GGUF"
_SIMPLE = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONG = 64
"""Lists of more entries are read only where they are asked for."""
_MOST = 1 << 31
NUMBERS = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k",
    14: "q6_k", 20: "iq4_nl", 21: "iq3_s", 23: "iq4_xs", 30: "bf16",
}  # fmt: skip
"""Number of a tensor type in the file -> name, for those that are made here."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file.

    Attributes:
        name: `blk.0.attn_v.weight`.
        shape: Weights of a row first.
        type: Name as in `quantizations.BLOCKS`; `type-N` for others.
        offset: Bytes after the start of the data.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int

    @property
    def bytes(self) -> int | None:
        """Bytes of its data; None where the type is not known here."""
        if self.type not in BLOCKS:
            return None
        block, size = BLOCKS[self.type]
        return math.prod(self.shape) // block * size


@dataclass(frozen=True)
class Header:
    """The head of a GGUF file.

    Attributes:
        path: The file.
        facts: Key -> value, `general.architecture`; long lists are left out unless they were asked for.
        tensors: In the order of the file.
        data: Bytes before the tensors' data.
        size: Bytes of the file.
    """

    path: Path
    facts: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    data: int
    size: int

    @property
    def expected(self) -> int | None:
        """Bytes that the file must have at least, by its tensors; None where one has a type not known here."""
        if any(t.bytes is None for t in self.tensors):
            return None
        return self.data + max((t.offset + (t.bytes or 0) for t in self.tensors), default=0)


def read(path: Path, lists: Collection[str] = ()) -> Header:
    """The header of `path`.

    Args:
        path: A GGUF file.
        lists: Keys whose long lists are wanted (`tokenizer.ggml.tokens`).

    Raises:
        UsageError: It is no GGUF file, cannot be read, or ends inside its header.
    """
    try:
        with open(path, "rb") as handle:
            return _read(path, handle, lists)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a .gguf file") from error
    except (struct.error, ValueError, EOFError, OverflowError) as error:
        raise UsageError(
            f"{path} is damaged: its header ends too early or makes no sense", hint="make it again"
        ) from error


def check(path: Path) -> Header:
    """The header of `path`, after seeing that all of its tensors are there.

    Raises:
        UsageError: As `read`, or the file is shorter than its tensors.
    """
    head = read(path)
    if head.expected is not None and head.size < head.expected:
        raise UsageError(
            f"{path} is cut off: it has {head.size:,} bytes of {head.expected:,}",
            hint="make it again, or copy it again",
        )
    return head


def _read(path: Path, handle: BinaryIO, lists: Collection[str]) -> Header:
    if handle.read(4) != MAGIC:
        raise UsageError(f"{path} is no GGUF file", hint="name a .gguf file")
    version, tensors, facts = struct.unpack("<IQQ", _bytes(handle, 20))
    if version not in (2, 3):
        raise UsageError(f"{path} is GGUF version {version}, and 2 and 3 are understood", hint="make it again")
    if tensors > 1 << 24 or facts > 1 << 20:
        raise ValueError("no sensible counts")
    found: dict[str, Any] = {}
    for _ in range(facts):
        key = _text(handle)
        value = _value(handle, struct.unpack("<I", _bytes(handle, 4))[0], key in lists)
        if value is not _SKIPPED:
            found[key] = value
    listed = []
    for _ in range(tensors):
        name = _text(handle)
        dimensions = struct.unpack("<I", _bytes(handle, 4))[0]
        if dimensions > 8:
            raise ValueError("no sensible shape")
        shape = struct.unpack(f"<{dimensions}Q", _bytes(handle, 8 * dimensions))
        number, offset = struct.unpack("<IQ", _bytes(handle, 12))
        listed.append(TensorInfo(name, shape, NUMBERS.get(number, f"type-{number}"), offset))
    alignment = int(found.get("general.alignment") or 32)
    data = -(-handle.tell() // alignment) * alignment
    return Header(path, found, tuple(listed), data, handle.seek(0, 2))


_SKIPPED = object()


def _value(handle: BinaryIO, kind: int, wanted: bool) -> Any:
    if kind in _SIMPLE:
        return struct.unpack(_SIMPLE[kind], _bytes(handle, struct.calcsize(_SIMPLE[kind])))[0]
    if kind == _STRING:
        return _text(handle)
    if kind != _ARRAY:
        raise ValueError("no sensible type")
    inner, count = struct.unpack("<IQ", _bytes(handle, 12))
    keep = wanted or count <= _LONG
    if inner in _SIMPLE:
        raw = _bytes(handle, count * struct.calcsize(_SIMPLE[inner]))
        return list(struct.unpack(f"<{count}{_SIMPLE[inner][1]}", raw)) if keep else _SKIPPED
    values = []
    for _ in range(count):
        value = _value(handle, inner, wanted)
        if keep:
            values.append(value)
    return values if keep else _SKIPPED


def _text(handle: BinaryIO) -> str:
    return _bytes(handle, struct.unpack("<Q", _bytes(handle, 8))[0]).decode("utf-8", "replace")


def _bytes(handle: BinaryIO, count: int) -> bytes:
    if count > _MOST:
        raise ValueError("no sensible length")
    found = handle.read(count)
    if len(found) != count:
        raise EOFError
    return found
