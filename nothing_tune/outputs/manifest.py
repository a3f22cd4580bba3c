"""EXPORT.json: what a folder of outputs holds, what it was made from, and what was proved of it. Written last.

    {"schema": 1, "kind": "merged",
     "source": {"run", "path", "step", "digest", "base": {"name_or_path", "revision", "fingerprint", "licence"}},
     "outputs": {"merged": {"files": {"model.safetensors": {"size", "sha256"}}, "settings": {...}, "proof": {...} | null,
                            "seconds", "made", "versions"}}}

A folder holds one output, but for `gguf/`, where each type is one (`q4_k_m`, `adapter-f16`). An output is there when its entry is
and its files have the sizes it names; what has no entry was never finished and is made anew.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import fsync_dir, read_json, write_json
from nothing_tune.artifacts.checkpoint import versions
from nothing_tune.errors import StorageError, UsageError

NAME = "EXPORT.json"
SCHEMA = 1


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None without one. `UsageError` where it is damaged or of a newer version."""
    found = read_json(folder / NAME)
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("outputs"), dict):
        raise UsageError(f"{folder / NAME} is damaged", hint="remove the folder and export again")
    if int(found.get("schema") or 0) > SCHEMA:
        raise UsageError(f"{folder / NAME} was written by a newer nothing-tune", hint="pip install -U nothing-tune")
    return found


def add(
    folder: Path,
    kind: str,
    name: str,
    source: Mapping[str, Any],
    files: Iterable[Path],
    settings: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Makes `files` (inside `folder`) durable and writes output `name` into the manifest; returns its entry.

    Entries of another `source` (another run or other weights) are dropped.

    Raises:
        StorageError: The disk refuses.
    """
    listed = {}
    try:
        for path in sorted(files):
            with open(path, "rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                os.fsync(handle.fileno())
            listed[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": digest}
    except OSError as error:
        raise StorageError(
            f"cannot make {folder} durable: {error.strerror}", hint="free some space, then again"
        ) from error
    fsync_dir(folder)
    entry = {
        "files": listed, "settings": dict(settings), "proof": None, "seconds": round(seconds, 2), "made": time.time(),
        "versions": versions(),
    }  # fmt: skip
    before = read(folder)
    kept = before["outputs"] if before and before.get("source") == dict(source) else {}
    write_json(
        folder / NAME, {"schema": SCHEMA, "kind": kind, "source": dict(source), "outputs": {**kept, name: entry}}
    )
    return entry


def set_proof(folder: Path, name: str, proof: Mapping[str, Any]) -> None:
    """Writes what was proved of output `name`; a file that changed since keeps its digest, so that `faults` finds it."""
    found = read(folder)
    assert found is not None
    found["outputs"][name] = {**found["outputs"][name], "proof": dict(proof)}
    write_json(folder / NAME, found)


def done(folder: Path, name: str, source: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of an output that is there, made from this source with these settings, its files as long as they were; else None."""
    found = read(folder)
    if not found or found.get("source") != dict(source):
        return None
    entry = found["outputs"].get(name)
    if not entry or entry.get("settings") != dict(settings):
        return None
    sizes = ((folder / file, facts["size"]) for file, facts in entry["files"].items())
    return entry if all(path.is_file() and path.stat().st_size == size for path, size in sizes) else None


def faults(folder: Path) -> list[str]:
    """What differs from the manifest, one sentence for each file: gone, another size, another digest; empty when all is well.

    Raises:
        UsageError: There is no manifest, or it is damaged.
    """
    found = read(folder)
    if found is None:
        raise UsageError(f"{folder} holds no export: it has no {NAME}", hint="tune export RUN_ID makes one")
    out = []
    for entry in found["outputs"].values():
        for name, facts in entry["files"].items():
            path = folder / name
            if not path.is_file():
                out.append(f"{name} is gone")
            elif path.stat().st_size != facts["size"]:
                out.append(f"{name} has {path.stat().st_size:,} bytes, not {facts['size']:,}")
            else:
                with open(path, "rb") as handle:
                    if hashlib.file_digest(handle, "sha256").hexdigest() != facts["sha256"]:
                        out.append(f"{name} is not what was written: its sha256 differs")
    return out
