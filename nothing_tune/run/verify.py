"""Checks everything that is kept of a run against what was written, and tells what a resume would do. Changes nothing."""

from __future__ import annotations

import hashlib
import json
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nothing_tune.artifacts import Run, checkpoint, read_json
from nothing_tune.errors import RecipeError, UsageError
from nothing_tune.recipe import reader

BLOCK = 1 << 24
"""Bytes of a tensor that are read at once."""
MAX_HEADER = 100 << 20
"""Largest header of a safetensors file that is read, in bytes."""
_WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = frozenset({"F32", "F16", "BF16", "F64"})


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        run: The run's id.
        checkpoints: Step -> why its checkpoint is damaged; None where every byte is what was written.
        damaged: One line for each thing that is not what was written.
        remarks: What is no damage: saves that were cut off, checkpoints set aside earlier.
        resume: What `tune resume` would do, a sentence without a full stop.
        checked: Bytes that were read and compared.
    """

    run: str
    checkpoints: dict[int, str | None]
    damaged: tuple[str, ...]
    remarks: tuple[str, ...]
    resume: str
    checked: int

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged


def verify(run: Run) -> Report:
    """Re-hashes every checkpoint, `initial/` and `adapter/`, and reads plan, recipe, lock, status, result and events."""
    damaged = [*_texts(run)]
    remarks: list[str] = []
    committed = _committed(run)
    found: dict[int, str | None] = {}
    checked = 0
    for step in checkpoint.steps(run.checkpoints):
        folder = run.checkpoints / f"checkpoint-{step}"
        why = checkpoint.fault(folder)
        if why is not None and not folder.is_dir():
            continue  # a live run has removed it meanwhile
        found[step] = why
        if why is None:
            checked += _bytes(folder)
        elif (folder / checkpoint.COMMIT).exists() or step in committed:
            damaged.append(f"{folder.name}: {why}")
        else:
            remarks.append(f"{folder.name} was never completed: a save was cut off there, or goes on")
    for folder in run.checkpoints.glob(
        ".replaced-*"
    ):  # a kill while a checkpoint was written again: a resume puts it back
        name = folder.name.rsplit("-", 1)[1]
        if name.isdecimal() and found.get(int(name), "gone") is not None and checkpoint.fault(folder) is None:
            found[int(name)] = None
            damaged = [d for d in damaged if not d.startswith(f"checkpoint-{name}:")]
            remarks.append(f"checkpoint-{name} was being written again; the one before it is put back")
    latest = _latest(run)
    if latest is not None and latest not in found and not (run.checkpoints / f"checkpoint-{latest}").is_dir():
        damaged.append(f"checkpoint-{latest}, the newest that was committed, is gone")
    if run.checkpoints.is_dir():
        remarks += [f"{p.name} was set aside" for p in sorted(run.checkpoints.glob("torn-*"))]
    for folder in (run.path / "initial", run.adapter):
        if (folder / checkpoint.COMMIT).exists() or (folder.name == "initial" and folder.is_dir()):
            why = checkpoint.fault(folder)
            damaged += [f"{folder.name}: {why}"] if why else []
            checked += 0 if why else _bytes(folder)
        elif folder == run.adapter:
            why, read = _adapter(run)
            damaged += [f"{folder.name}: {why}"] if why else []
            checked += read
    return Report(run.id, found, tuple(damaged), tuple(remarks), _resume(run, found), checked)


def _texts(run: Run) -> Iterator[str]:
    """What is wrong with the files of text."""
    needed = ("plan.json", "lock.json")
    for name in (*needed, "status.json", "result.json", "pins.json", "adjustments.json", "checkpoints/latest.json"):
        try:
            data = read_json(run.path / name)
        except UsageError:
            yield f"{name} is no JSON"
            continue
        if data is None and name in needed:
            yield f"{name} is missing"
        elif data is not None and not isinstance(data, list if name == "adjustments.json" else dict):
            yield f"{name} does not hold what it should"
    try:
        reader.read_file(run.path / "recipe.yaml")
    except RecipeError as error:
        what = error.problems[0].what
        yield what if "recipe.yaml" in what else f"recipe.yaml: {what}"
    yield from _events(run.path / "events.jsonl")


def _events(path: Path) -> Iterator[str]:
    """What is wrong with events.jsonl; a torn last line is what a kill leaves, and no fault."""
    bad: list[int] = []
    try:
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, 1):
                try:
                    good = not line.endswith(b"\n") or isinstance(json.loads(line), dict)
                except ValueError:
                    good = False
                if not good:
                    bad.append(number)
    except FileNotFoundError:
        return
    except OSError as error:
        yield f"{path.name} cannot be read: {error.strerror}"
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield f"{path.name}: line {bad[0]}{more} cannot be read"


def _committed(run: Run) -> set[int]:
    """Steps whose checkpoint was committed, as the events tell."""
    return {e["step"] for e, _ in run.events() if e.get("type") == "checkpoint" and isinstance(e.get("step"), int)}


def _latest(run: Run) -> int | None:
    """The step that checkpoints/latest.json names."""
    try:
        found = read_json(run.checkpoints / "latest.json")
    except UsageError:
        return None
    step = found.get("step") if isinstance(found, dict) else None
    return step if isinstance(step, int) else None


def _resume(run: Run, found: dict[int, str | None]) -> str:
    try:
        done = (run.result() or {}).get("state") == "done"
    except UsageError:
        done = False
    if done:
        return "the run is done, and there is nothing to resume"
    whole = [step for step, why in found.items() if why is None]
    if whole:
        return f"tune resume would go on at checkpoint-{max(whole)}"
    if (run.path / "initial").is_dir():
        return "tune resume would start from the weights in initial"
    return "tune resume would start anew"


def _adapter(run: Run) -> tuple[str | None, int]:
    """`(why adapter/ is not what was handed over, bytes read)`, by the digest in result.json where there is one."""
    try:
        result = run.result() or {}
    except UsageError:
        return None, 0
    if not result.get("adapter"):
        return None, 0
    if not run.adapter.is_dir():
        return "it is gone", 0
    if not isinstance(result.get("digest"), str):
        return None, 0
    try:
        total = digest(run.adapter)
    except (OSError, ValueError) as error:
        return f"its weights cannot be read: {error}", 0
    except (KeyError, TypeError):
        return "its weights cannot be read: it is no safetensors file", 0
    if total is not None and total != result["digest"]:
        return "its weights are not what was handed over", 0
    return None, sum(p.stat().st_size for p in run.adapter.glob("*.safetensors"))


def digest(folder: Path) -> str | None:
    """sha256 over names, shapes and values of all tensors in a folder's safetensors files, values as float32.

    The same as the engine's `handover.digest`, read without torch. None where a tensor has a type that is not known here.

    Raises:
        ValueError: A file is no safetensors file, or is cut off.
    """
    tensors: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as handle:
            start, header = _header(handle, path.stat().st_size)
        tensors.update({k: (path, start, v) for k, v in header.items() if k != "__metadata__"})
    total = hashlib.sha256()
    for name in sorted(tensors):
        path, start, about = tensors[name]
        kind, shape = str(about["dtype"]), tuple(about["shape"])
        if kind not in _WIDTH:
            return None
        total.update(f"{name}{shape}".encode())
        begin, end = about["data_offsets"]
        with open(path, "rb") as handle:
            handle.seek(start + begin)
            left = end - begin
            while left > 0:
                piece = handle.read(min(BLOCK, left))
                if not piece:
                    raise ValueError(f"{path.name} is cut off")
                left -= len(piece)
                total.update(_float32(piece, kind) if kind in _FLOATS else piece)
    return total.hexdigest()


def _header(handle: BinaryIO, size: int) -> tuple[int, dict[str, Any]]:
    """`(where the tensors begin, their names and places)` of a safetensors file: 8 bytes of length, JSON, then the data."""
    first = handle.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else MAX_HEADER + 1
    if length > min(MAX_HEADER, size):
        raise ValueError("it is no safetensors file")
    header = json.loads(handle.read(length))
    if not isinstance(header, dict):
        raise ValueError("it is no safetensors file")
    return 8 + length, header


def _float32(data: bytes, kind: str) -> bytes:
    """Floats of `kind` as the bytes of little-endian float32."""
    if kind == "F32":
        return data
    if kind == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return bytes(wide)
    if kind == "F16":
        return array("f", struct.unpack(f"<{len(data) // 2}e", data)).tobytes()
    return array("f", array("d", data)).tobytes()


def _bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
