"""What the merged model answers, kept so that a GGUF file is compared with what it was made from: the conversion apart from the merge.

exports/step-N/.proof/merged.safetensors   log-probabilities `merged`, [places, vocabulary], float32
exports/step-N/.proof/merged.json          of which run, texts and merged files; sha256 of the file above
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from nothing_tune.artifacts import read_json, write_json
from nothing_tune.engine.export.proof import answers, models
from nothing_tune.engine.export.proof.answers import Reference
from nothing_tune.engine.export.proof.checks import check, distance, number, unknown
from nothing_tune.engine.export.proof.prompts import as_key
from nothing_tune.engine.export.source import Source
from nothing_tune.errors import TuneError
from nothing_tune.outputs import limits, manifest

SCHEMA = 1
NAME = "conversion"


def keep(folder: Path, source: Source, ref: Reference, said: torch.Tensor) -> None:
    """Keeps what the merged model in `folder` said; a disk that has no room for it costs only that it is computed again."""
    from safetensors.torch import save_file

    target = source.folder / answers.FOLDER
    files = _files(folder, source)
    if folder != source.folder / "merged" or files is None:
        return
    with contextlib.suppress(OSError, TuneError):
        target.mkdir(parents=True, exist_ok=True)
        (target / "merged.json").unlink(missing_ok=True)
        path = target / "merged.safetensors"
        save_file({"merged": said.contiguous()}, path)
        told = {"schema": SCHEMA, "of": _key(source, ref), "files": files, "sha256": _sha256(path)}
        write_json(target / "merged.json", told)


def stored(source: Source, ref: Reference) -> torch.Tensor | None:
    """What was kept of the merged model; None without it, or where it is damaged, of another run, or of other files than are there."""
    target = source.folder / answers.FOLDER
    told, path = read_json(target / "merged.json"), target / "merged.safetensors"
    if not isinstance(told, dict) or told.get("schema") != SCHEMA or told.get("of") != _key(source, ref):
        return None
    folder = source.folder / "merged"
    if (folder / "config.json").is_file() and told.get("files") != _files(folder, source):
        return None
    try:
        if _sha256(path) != told.get("sha256"):
            return None
        from safetensors.torch import load_file

        return load_file(path)["merged"]
    except Exception:  # safetensors raises its own
        return None


def of_merged(source: Source, ref: Reference | None) -> tuple[torch.Tensor | None, str]:
    """What the merged model says, kept or asked now while its folder is there; and why not."""
    if ref is None:
        return None, "the run's answers cannot be had any more"
    found = stored(source, ref)
    if found is not None:
        return found, ""
    folder = source.folder / "merged"
    if not (folder / "config.json").is_file():
        return None, "the merged model that it was made from is gone"
    if _files(folder, source) is None:
        return None, "the merged model beside it is of other weights"
    trust = bool(source.plan.model.get("trust_remote_code"))
    try:
        damaged = manifest.faults(folder) if (folder / manifest.NAME).is_file() else []
        if damaged:
            return None, f"the merged model is damaged: {damaged[0]}"
        where = models.device(models.parameters(folder), int(ref.run.shape[1]))
        with models.exact(), models.loaded(folder, trust, where) as model:
            said = models.log_probabilities(model, ref.prompts)
    except Exception as error:
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        return None, f"the merged model cannot be loaded: {first.removeprefix('error: ')}"
    keep(folder, source, ref, said)
    return said, ""


def judge(
    said: torch.Tensor,
    name: str,
    merged: tuple[torch.Tensor | None, str],
    ref: Reference,
    checks: list[dict[str, Any]],
    warnings: list[dict[str, str]],
) -> dict[str, Any]:
    """Adds what tells a GGUF file of type `name` from the merged model; returns `kl_merged`, None where there is none."""
    before, why = merged
    if before is None:
        checks.append(unknown(NAME, why, mild=True))
        return {"kl_merged": None}
    limit = limits.conversion(name, int(ref.facts.get("parameters") or 0))
    apart = distance(before, said)
    told = f"over {apart.positions} positions the answers lie KL {number(apart.kl)} from the merged model's"
    if apart.kl > limit.kl:
        checks.append(check(NAME, False, f"{told}, the limit is {number(limit.kl)}", apart.kl, limit.kl))
        return {"kl_merged": apart.kl}
    checks.append(check(NAME, True, told, apart.kl, limit.kl))
    if apart.kl > limit.poor:
        hint = f"expected below {number(limit.poor)} ({limit.why})"
        warnings.append({"what": f"{told}, which is much for {name}", "hint": hint})
    return {"kl_merged": apart.kl}


def _key(source: Source, ref: Reference) -> dict[str, Any]:
    texts = hashlib.sha256(as_key(ref.prompts).encode()).hexdigest()
    return {**answers.weights_of(source), "texts": texts}


def _files(folder: Path, source: Source) -> str | None:
    """sha256 of what the manifest says of the merged files, else of their sizes and dates; None where they are of other weights."""
    found: Any = None
    with contextlib.suppress(TuneError):
        found = manifest.read(folder)
    if found:
        if answers.weights_of(source) != {k: found["source"].get(k) for k in ("run", "step", "digest")}:
            return None
        listed: Any = {n: e["files"] for n, e in found["outputs"].items()}
    else:
        listed = {p.name: [p.stat().st_size, p.stat().st_mtime_ns] for p in sorted(folder.glob("*.safetensors"))}
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
