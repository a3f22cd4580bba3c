"""Proves again what lies in a folder of exports, here or copied elsewhere, with as much of run and base as is still there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run
from nothing_tune.artifacts.runs import runs_root
from nothing_tune.engine.export import source as sources
from nothing_tune.engine.export.proof import answers as references
from nothing_tune.engine.export.proof import outputs
from nothing_tune.engine.export.proof.answers import Reference
from nothing_tune.engine.export.proof.checks import check, result, unknown
from nothing_tune.engine.export.source import Source
from nothing_tune.engine.job import Send
from nothing_tune.errors import TuneError, UsageError
from nothing_tune.outputs import manifest
from nothing_tune.outputs.checkpoints import HANDED_OVER
from nothing_tune.plan.model import Plan

KINDS = ("adapter", "merged", "gguf")


def verify(folder: Path, send: Send) -> list[dict[str, Any]]:
    """Proves every output in `folder` again, writes what was found into its EXPORT.json, and returns
    `[{"output", "path", "there", "bytes", "seconds", "proof"}]`.

    Args:
        folder: `exports/step-N/`, one of the folders in it, or a copy of either.
        send: Told how far it is.

    Raises:
        UsageError: There is no export.
        ProofFailed: The memory does not suffice.
    """
    folder = folder.expanduser().absolute()
    found = list(_folders(folder))
    if not found:
        raise UsageError(f"{folder} holds no export: it has no {manifest.NAME}", hint="tune export RUN_ID makes one")
    out: list[dict[str, Any]] = []
    known: dict[str, tuple[Source | None, str, Reference | None, outputs.Around | None]] = {}
    for one in found:
        told = manifest.read(one)
        assert told is not None
        key = repr(sorted(told["source"].items(), key=lambda item: item[0]))
        if key not in known:
            known[key] = _origin(one, told["source"], send)
        out += _outputs(one, told, *known[key])
    return out


def _folders(folder: Path) -> Iterator[Path]:
    if (folder / manifest.NAME).is_file():
        yield folder
        return
    for kind in KINDS:
        if (folder / kind / manifest.NAME).is_file():
            yield folder / kind


def _origin(
    folder: Path, facts: dict[str, Any], send: Send
) -> tuple[Source | None, str, Reference | None, outputs.Around | None]:
    """Where an export came from, as far as it is still there: source, why there is none, the run's answers, base and tokenizer."""
    run = _run(folder, facts)
    source, why = None, f"run {facts.get('run')} is not here"
    if run is not None:
        try:
            name = str(facts.get("path") or "")
            which = HANDED_OVER if name == run.adapter.name else str(facts.get("step"))
            source = sources.source(run, which, folder.parent)
            if source.facts.get("digest") != facts.get("digest"):
                source, why = None, f"the weights of run {run.id} are no longer those that were exported"
        except TuneError as error:
            why = error.problems[0].what
    if source is None:
        source = _rootless(folder, facts)
        ref = references.stored(folder.parent, references.weights_of(source))
        near = None
        with contextlib.suppress(TuneError):
            near = outputs.around(source)
        return source, why, ref, near
    near = outputs.around(source)
    if near.base is None:
        return source, "", references.stored(source.folder, references.weights_of(source)), near
    return source, "", references.reference(source, near.base, send), near


def _run(folder: Path, facts: dict[str, Any]) -> Run | None:
    """The run of an export: the directory that it lies in, else one of that name among the runs."""
    name = str(facts.get("run"))
    above = [p for p in folder.parents if p.name == name and (p / "plan.json").is_file()]
    for path in (*above, runs_root() / name):
        if (path / "plan.json").is_file():
            return Run(path)
    return None


def _rootless(folder: Path, facts: dict[str, Any]) -> Source:
    """A source whose run is gone: all that is known is what the manifest says, and what was exported beside it."""
    named = facts.get("base") or {}
    plan = Plan(
        name=str(facts.get("run")), gpu={}, values={}, data={}, quantization=None, peft={}, training={}, tracking={}, monitor={},
        checkpoint={}, trainable_dtype=None,
        model={"name_or_path": named.get("name_or_path"), "revision": named.get("revision")},
    )  # fmt: skip
    gone = folder.parent / ".gone"
    return Source(Run(gone), plan, int(facts.get("step") or 0), folder.parent, gone, False, facts)


def _outputs(
    folder: Path,
    told: dict[str, Any],
    source: Source | None,
    why: str,
    ref: Reference | None,
    near: outputs.Around | None,
) -> Iterator[dict[str, Any]]:
    assert source is not None
    damaged = manifest.faults(folder)
    for name, entry in told["outputs"].items():
        began = time.monotonic()
        mine = [f for f in damaged if any(f.startswith(f"{file} ") for file in entry["files"])]
        files = check(
            "files", not mine, "; ".join(mine[:3]) if mine else f"{len(entry['files'])} files are as they were written"
        )
        proof = _proof(told, folder, name, entry, source, ref, near) if not mine else result([])
        checks = [files, *([unknown("run", why)] if why else []), *proof["checks"]]
        proof = {**proof, "ok": all(c["ok"] is not False for c in checks), "checks": checks}
        with contextlib.suppress(TuneError, OSError):
            manifest.set_proof(folder, name, proof)
        yield {
            "output": name, "path": str(folder / next(iter(entry["files"])) if told["kind"] == "gguf" else folder), "there": True,
            "bytes": sum(f["size"] for f in entry["files"].values()), "seconds": round(time.monotonic() - began, 2), "proof": proof,
        }  # fmt: skip


def _proof(
    told: dict[str, Any],
    folder: Path,
    name: str,
    entry: dict[str, Any],
    source: Source,
    ref: Reference | None,
    near: outputs.Around | None,
) -> dict[str, Any]:
    near = near or outputs.Around(None, None, "the base's")
    if told["kind"] == "adapter":
        return outputs.adapter(source, ref, near, folder)
    if told["kind"] == "merged":
        return outputs.merged(folder, source, ref, near)
    return outputs.gguf(folder / next(iter(entry["files"])), name, source, ref, near)
