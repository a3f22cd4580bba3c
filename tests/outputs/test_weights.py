"""Headers of safetensors files, read without their weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from nothing_tune.errors import StorageError
from nothing_tune.outputs.weights import header, stored


def write(path: Path, tensors: dict[str, tuple[str, list[int], int]], cut: int = 0) -> None:
    facts, at = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        facts[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    head = json.dumps({"__metadata__": {"format": "pt"}, **facts}).encode()
    path.write_bytes((struct.pack("<Q", len(head)) + head + bytes(at))[: -cut or None])


def test_bytes_and_type_of_most(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", {"w": ("BF16", [4, 4], 32), "n": ("F32", [4], 16)})
    write(tmp_path / "b.safetensors", {"i": ("I64", [100], 800)})
    assert stored(tmp_path) == (848, "bfloat16")
    assert list(header(tmp_path / "a.safetensors")) == ["w", "n"]
    assert stored(tmp_path / "none") == (0, "")


def test_a_file_that_is_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {"w": ("F32", [4], 16)}, cut=3)
    with pytest.raises(StorageError) as error:
        header(path)
    whole = path.stat().st_size
    assert error.value.problems[0].what == f"{path} is damaged: it has {whole:,} bytes instead of {whole + 3:,}"
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(StorageError, match="is cut off or no safetensors file: it has 20 bytes"):
        header(path)
    path.write_bytes(b"")
    with pytest.raises(StorageError, match="is cut off or no safetensors file: it has 0 bytes"):
        header(path)
