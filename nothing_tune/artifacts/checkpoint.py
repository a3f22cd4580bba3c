"""Committed checkpoints: a checkpoint counts once COMMIT.json, written last, names every file with size and sha256.

    checkpoints/checkpoint-N/   what the Trainer saves, without training_args.bin (a pickle that may hold secrets)
                  tune-state.json   our own counters, and dtype and shape of every trainable weight
                  COMMIT.json       {"schema", "step", "attempt", "run", "files": {name: {"size", "sha256"}}, "versions"}

A kill at any moment leaves the older checkpoints whole and at most one torn folder, which is passed over.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from importlib import metadata
from pathlib import Path

from nothing_tune.artifacts.files import fsync_dir, read_json, write_json
from nothing_tune.errors import UsageError

COMMIT = "COMMIT.json"
STATE = "tune-state.json"
SCHEMA = 1
UNWANTED = ("training_args.bin", "README.md")
"""Files of the stock Trainer that are removed before the commit."""
PACKAGES = ("nothing-tune", "torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")
_NAME = re.compile(r"^checkpoint-(\d+)$")


def commit(folder: Path, *, step: int, attempt: int, run: str) -> None:
    """Makes `folder` durable and complete: every file and the folder are flushed to the disk, then COMMIT.json is written."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != COMMIT):
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            os.fsync(handle.fileno())
        files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": digest}
    fsync_dir(folder)
    write_json(
        folder / COMMIT,
        {"schema": SCHEMA, "run": run, "step": step, "attempt": attempt, "files": files, "versions": versions()},
    )
    fsync_dir(folder.parent)


def fault(folder: Path) -> str | None:
    """Why `folder` is no complete checkpoint, in a few words; None when every file is there with its size and sha256."""
    try:
        manifest = read_json(folder / COMMIT)
    except UsageError:
        return f"{COMMIT} is damaged"
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return "it was never completed"
    for name, want in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != want["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {want['size']}"
        with open(path, "rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != want["sha256"]:
                return f"{name} is not what was written"
    return None


def steps(checkpoints: Path) -> list[int]:
    """Steps of all folders named like checkpoints, complete or not, ascending."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(m.group(1)) for m in (_NAME.match(p.name) for p in checkpoints.iterdir() if p.is_dir()) if m)


def newest(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint (None when there is none), and one line for each newer folder that is not complete."""
    faults: list[str] = []
    for step in reversed(steps(checkpoints)):
        folder = checkpoints / f"checkpoint-{step}"
        why = fault(folder)
        if why is None:
            return folder, faults
        faults.append(f"{folder.name} is passed over: {why}")
    return None, faults


def remove(folder: Path) -> None:
    """Deletes a checkpoint so that a kill on the way leaves nothing that looks complete: COMMIT.json goes first."""
    (folder / COMMIT).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def rotate(checkpoints: Path, *, keep: int, best: int | None) -> list[int]:
    """Deletes all but the newest `keep` complete checkpoints and the one of step `best`; returns the steps deleted.

    Torn folders older than the newest complete one are deleted as well.
    """
    found = steps(checkpoints)
    complete = [s for s in found if (checkpoints / f"checkpoint-{s}" / COMMIT).is_file()]
    if not complete:
        return []
    kept = {*complete[-max(1, keep) :], best}
    doomed = [s for s in found if s not in kept and s <= complete[-1]]
    for step in doomed:
        remove(checkpoints / f"checkpoint-{step}")
    return doomed


def versions() -> dict[str, str]:
    """Versions of what a checkpoint depends on; packages that are not installed are left out."""
    out = {}
    for name in PACKAGES:
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out
