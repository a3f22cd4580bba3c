"""Committed checkpoints: a checkpoint counts once COMMIT.json, written last, names every file with size and sha256.

    checkpoints/checkpoint-N/   what the Trainer saves, without training_args.bin (a pickle that may hold secrets)
                  tune-state.json   our own counters, and dtype and shape of every trainable weight
                  COMMIT.json       what is in the folder, and what it belongs to: see `commit`
    checkpoints/latest.json     {"step", "path"} of the newest, for people and programs; the contents decide, not this file
    checkpoints/torn-N-aA/      a folder that was never completed or is damaged, set aside in attempt A

A kill at any moment leaves the older checkpoints whole and at most one torn folder, which is set aside.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nothing_tune.artifacts.files import finite, fsync_dir, read_json, write_json
from nothing_tune.errors import StorageError, UsageError

COMMIT = "COMMIT.json"
STATE = "tune-state.json"
LATEST = "latest.json"
SCHEMA = 2
UNWANTED = ("training_args.bin", "README.md")
"""Files of the stock Trainer that are removed before the commit."""
LOADED = (".safetensors", ".bin", ".pt", ".pth", ".pkl")
"""Endings of files that a library would load: one that COMMIT.json does not name makes a checkpoint invalid."""
PROGRESS = ("optimizer.pt", "scheduler.pt", "scaler.pt", "trainer_state.json", STATE)
"""Files that hold how far the training is, next to rng_state*.pth; all others are the weights and what belongs to them."""
PACKAGES = (
    "nothing-tune",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "tokenizers",
)
_NAME = re.compile(r"^checkpoint-(\d+)$")
_REPLACED = re.compile(r"^\.replaced-(\d+)$")
_TORN = re.compile(r"^torn-(\d+)-a\d+(-\d+)?$")


def commit(
    folder: Path,
    *,
    step: int,
    attempt: int,
    run: str,
    owner: str = "",
    world_size: int = 1,
    settings: Mapping[str, Any] | None = None,
    fingerprints: Mapping[str, Any] | None = None,
    forked: Mapping[str, Any] | None = None,
    fence: Callable[[], None] = lambda: None,
) -> int:
    """Makes `folder` durable and complete: every file and the folder are flushed to the disk, then COMMIT.json is written.

    Args:
        step: Optimizer steps done.
        settings: Leaves of the recipe that the training follows; a resume compares them.
        fingerprints: Digests of data, tokenizer, template and base model; a resume compares them.
        forked: `{"run", "step", "changed"}` where the checkpoint was taken over from another run.
        fence: Called last before COMMIT.json is written; raises where the run belongs to someone else by now.

    Returns:
        Bytes in the folder.

    Raises:
        StorageError: The disk refuses.
    """
    files: dict[str, dict[str, Any]] = {}
    try:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != COMMIT):
            with open(path, "rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                os.fsync(handle.fileno())
            files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": digest}
    except OSError as error:
        raise StorageError(
            f"cannot make {folder.name} durable: {error.strerror}",
            hint="free some space or mend the disk, then tune resume",
        ) from error
    for below in {path.parent for path in folder.rglob("*")} | {folder}:
        fsync_dir(below)
    manifest = {
        "schema": SCHEMA,
        "run": run,
        "step": step,
        "attempt": attempt,
        "owner": owner,
        "world_size": world_size,
        "files": files,
        "versions": versions(),
        "settings": dict(settings or {}),
        "fingerprints": dict(fingerprints or {}),
        "forked": dict(forked) if forked else None,
    }
    manifest = json.loads(json.dumps(finite(manifest)))
    fence()
    write_json(folder / COMMIT, {**manifest, "sha256": _digest(manifest)})
    fsync_dir(folder.parent)
    return sum(file["size"] for file in files.values())


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, verified against its own digest. `StorageError` says what is wrong with it."""
    try:
        manifest = read_json(folder / COMMIT)
    except UsageError:
        raise StorageError(f"{folder.name}: {COMMIT} is damaged") from None
    if manifest is None:
        raise StorageError(f"{folder.name}: it was never completed")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise StorageError(f"{folder.name}: {COMMIT} is damaged")
    schema = manifest.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise StorageError(f"{folder.name}: it was written by a newer nothing-tune (schema {schema})")
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name in manifest["files"]):
        raise StorageError(f"{folder.name}: {COMMIT} names files outside its folder")
    if schema >= 2:  # version 0.1.0 wrote no digest of the manifest
        rest = {k: v for k, v in manifest.items() if k != "sha256"}
        if _digest(rest) != manifest.get("sha256"):
            raise StorageError(f"{folder.name}: {COMMIT} is damaged")
    elif not {"run", "step", "attempt", "versions"} <= manifest.keys():
        raise StorageError(f"{folder.name}: {COMMIT} is damaged")
    return manifest


def fault(folder: Path) -> str | None:
    """Why `folder` is no complete checkpoint, in a few words; None when every file is there with its size and sha256."""
    try:
        manifest = read(folder)
    except StorageError as error:
        return error.problems[0].what.split(": ", 1)[1]
    name = _NAME.match(folder.name)
    if name and manifest["step"] != int(name.group(1)):
        return f"{COMMIT} is of step {manifest['step']}"
    for file, want in manifest["files"].items():
        path = folder / file
        try:
            if not path.is_file():
                return f"{file} is missing"
            if path.stat().st_size != want["size"]:
                return f"{file} has {path.stat().st_size} bytes instead of {want['size']}"
            with open(path, "rb") as handle:
                if hashlib.file_digest(handle, "sha256").hexdigest() != want["sha256"]:
                    return f"{file} is not what was written"
        except OSError as error:
            return f"{file} cannot be read: {error.strerror}"
    strangers = sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.suffix in LOADED and str(p.relative_to(folder)) not in manifest["files"]
    )
    return f"{strangers[0]} does not belong to it" if strangers else None


def steps(checkpoints: Path) -> list[int]:
    """Steps of all folders named like checkpoints, complete or not, ascending."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(m.group(1)) for m in (_NAME.match(p.name) for p in checkpoints.iterdir() if p.is_dir()) if m)


def complete(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that were completed, ascending; their contents are not read again, see `fault`."""
    return [s for s in steps(checkpoints) if (checkpoints / f"checkpoint-{s}" / COMMIT).is_file()]


def newest(checkpoints: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest complete checkpoint (None when there is none), and each newer folder that is not complete with the reason."""
    faults: list[tuple[Path, str]] = []
    for step in reversed(steps(checkpoints)):
        folder = checkpoints / f"checkpoint-{step}"
        why = fault(folder)
        if why is None:
            return folder, faults
        faults.append((folder, why))
    return None, faults


def set_aside(folder: Path, attempt: int) -> Path:
    """Renames a folder that is no checkpoint so that nothing takes it for one; returns its new path."""
    step = folder.name.rsplit("-", 1)[-1]
    target = folder.with_name(f"torn-{step}-a{attempt}")
    number = 2
    while target.exists():
        target = folder.with_name(f"torn-{step}-a{attempt}-{number}")
        number += 1
    try:
        os.rename(folder, target)
    except OSError as error:
        raise StorageError(
            f"cannot rename {folder}: {error.strerror}", hint="mend the permissions of the run directory"
        ) from error
    fsync_dir(folder.parent)
    return target


def make_way(folder: Path) -> None:
    """Moves a complete checkpoint aside that is about to be written again; `settle` or `recover` decides what stays."""
    if not folder.exists():
        return
    if fault(folder) is None:
        aside = folder.with_name(f".replaced-{folder.name.rsplit('-', 1)[-1]}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
        fsync_dir(folder.parent)
    else:
        remove(folder)


def settle(folder: Path) -> None:
    """Deletes what `make_way` kept: `folder` is complete now."""
    shutil.rmtree(folder.with_name(f".replaced-{folder.name.rsplit('-', 1)[-1]}"), ignore_errors=True)


def recover(checkpoints: Path, attempt: int) -> None:
    """Undoes what a kill left half done: a checkpoint that was being written again is put back, removals are finished."""
    if not checkpoints.is_dir():
        return
    for path in sorted(checkpoints.iterdir()):
        if path.name.startswith(".removed-"):
            shutil.rmtree(path, ignore_errors=True)
        match = _REPLACED.match(path.name)
        if match is None:
            continue
        folder = checkpoints / f"checkpoint-{match.group(1)}"
        if folder.exists() and fault(folder) is None:
            shutil.rmtree(path, ignore_errors=True)
            continue
        if folder.exists():
            set_aside(folder, attempt)
        os.rename(path, folder)
        fsync_dir(checkpoints)


def remove(folder: Path) -> None:
    """Deletes a checkpoint so that a kill on the way leaves nothing that looks like one: it is renamed first."""
    target = folder.with_name(f".removed-{folder.name}")
    with contextlib.suppress(OSError):
        shutil.rmtree(target, ignore_errors=True)
        os.rename(folder, target)
    shutil.rmtree(target, ignore_errors=True)


def rotate(checkpoints: Path, *, keep: int, best: int | None, pinned: Collection[int] = ()) -> list[str]:
    """Deletes all complete checkpoints but the newest `keep` (never fewer than two), that of step `best` and the pinned ones.

    Of the folders that were set aside, the newest is kept for a look. Returns the names of what was deleted.
    """
    found = complete(checkpoints)
    if not found:
        return []
    kept = {*found[-max(2, keep) :], best, *pinned}
    doomed = [f"checkpoint-{s}" for s in found if s not in kept] + torn(checkpoints)[:-1]
    for name in doomed:
        remove(checkpoints / name)
    return doomed


def torn(checkpoints: Path) -> list[str]:
    """Names of the folders that were set aside, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = [p for p in checkpoints.iterdir() if _TORN.match(p.name)]
    return [p.name for p in sorted(found, key=lambda p: (p.stat().st_mtime, p.name))]


def adopt(source: Path, target: Path, *, run: str, settings: Mapping[str, Any], forked: Mapping[str, Any]) -> None:
    """Copies a complete checkpoint into another run, by hard links where the disk has them, and commits it there.

    Raises:
        StorageError: `source` is not complete, or the disk refuses.
    """
    why = fault(source)
    if why:
        raise StorageError(f"{source.name} cannot be taken over: {why}")
    manifest = read(source)
    try:
        target.mkdir(parents=True)
        for file in manifest["files"]:
            copy = target / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / file, copy)
            except OSError:
                shutil.copy2(source / file, copy)
    except OSError as error:
        raise StorageError(f"cannot copy {source.name}: {error.strerror}", hint="free some space") from error
    commit(
        target,
        step=manifest["step"],
        attempt=manifest["attempt"],
        run=run,
        owner=str(manifest.get("owner") or ""),
        world_size=int(manifest.get("world_size") or 1),
        settings=settings,
        fingerprints=manifest.get("fingerprints"),
        forked=forked,
    )


def is_progress(file: str) -> bool:
    """Whether a file of a checkpoint says how far the training is, rather than holding weights."""
    name = Path(file).name
    return name in PROGRESS or name.startswith(("rng_state", "tune-state"))


def pinned(run_dir: Path) -> list[int]:
    """Steps of the checkpoints that rotation spares because someone pinned them; none where pins.json is missing or damaged."""
    with contextlib.suppress(UsageError):
        found = read_json(run_dir / "pins.json")
        if isinstance(found, dict) and isinstance(found.get("steps"), list):
            return [s for s in found["steps"] if isinstance(s, int)]
    return []


def versions() -> dict[str, str]:
    """Versions of what a checkpoint depends on; packages that are not installed are left out."""
    out = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            out[name] = metadata.version(name)
    return out


def _digest(manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
