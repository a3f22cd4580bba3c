"""Writes the whole model, the adapter merged into the unquantised base, tensor by tensor.

What the adapter does not touch is copied byte for byte; what it changes is computed in float32 and rounded once to the type
that the base stores, and so is a model that was trained whole in a wider type.

Memory holds the adapter and one module of the model, whatever the size of a file. Files are made in a
hidden folder next to the result, with a journal of those that are whole: a merge that was killed goes on after them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from nothing_tune.artifacts import read_json, write_json
from nothing_tune.artifacts.checkpoint import versions
from nothing_tune.data import hub
from nothing_tune.engine.export import adapter, tensors, units
from nothing_tune.engine.export.base import INDEX, SINGLE, at
from nothing_tune.engine.export.source import Base, Source
from nothing_tune.engine.job import Send
from nothing_tune.errors import ProofFailed, StorageError, UsageError
from nothing_tune.outputs.weights import FLOATS, of_whole
from nothing_tune.plan.model import Plan

JOURNAL = "journal.json"
EVERY_S = 0.1
"""Seconds between two events of progress."""
BASE_FILES = ("*.py", "preprocessor_config.json", "processor_config.json", "tokenizer.model", "spiece.model")
"""What is taken over from the base besides its weights and config, unless the run's tokenizer brings it."""
Files = dict[str, dict[str, tuple[str, tuple[int, ...]]]]
"""File -> tensor -> type as safetensors names it, and shape."""


def make(source: Source, base: Base | None, folder: Path, send: Send, shard_bytes: int | None = None) -> None:
    """Makes the merged model in `folder`; of a run that trained the whole model, that model in the types of the base.

    Args:
        source: The weights; their plain adapter must be there (`adapter.make`).
        base: The base model; where the whole model was trained only its types are looked at, and it may be gone (None).
        folder: Where the model comes to stand; what was there stays until the new one is complete.
        send: Told the progress in bytes, and warnings.
        shard_bytes: Longest file, in bytes, but for one that holds a single longer tensor; None is files like those of the base.

    Raises:
        UsageError: The adapter belongs to another base, or to a method that cannot be merged.
        ProofFailed: The merged model would be the base model, or is not finite in the type of the base.
        StorageError: A file is damaged, or the disk refuses; what is whole is kept for the next time.
    """
    like = base if source.full else None
    if source.full:
        base = at(source.weights)
    assert base is not None
    partial = folder.with_name(f".{folder.name}.partial")
    work = _Merge(source, base, partial, send, shard_bytes, like)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        work.write()
        work.rest()
        (partial / JOURNAL).unlink()
        adapter.settle(partial, folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror or error}", hint="free some space, then the same command goes on"
        ) from error


def whole_dtype(plan: Plan, base: Base | None, trained: Base) -> str:
    """Type in which a model that was trained whole is written: that of its base, as its config or the plan names it where it is gone.

    Args:
        base: The base model; None where it is gone.
        trained: What the run committed.
    """
    known = base.dtype if base else ""
    return of_whole(known, base_config(plan), (plan.model.get("init") or {}).get("dtype"), trained.dtype)


@dataclass
class _Merge:
    """One merge: what it reads, where it writes, and how far it is.

    `base` is where weights that are copied come from: of a model that was trained whole that model, and `like` is then its base.
    """

    source: Source
    base: Base
    partial: Path
    send: Send
    shard_bytes: int | None
    like: Base | None = None
    headers: dict[str, dict[str, tensors.Entry]] = field(init=False)
    kinds: dict[str, str] = field(default_factory=dict)
    """Of a model that was trained whole: the types in which its tensors are written."""
    dtype: str = ""
    skeleton: units.Skeleton | None = None
    changed: set[str] = field(default_factory=set)
    done: int = 0
    total: int = 0
    _told: float = 0.0
    _unit: tuple[str, dict[str, torch.Tensor]] | None = None

    def __post_init__(self) -> None:
        self.headers = {file: tensors.header(self.base.folder / file) for file in sorted(set(self.base.files.values()))}
        if self.source.full:
            self.dtype = whole_dtype(self.source.plan, self.like, self.base)
            self.kinds = self._kinds()
        else:
            code = bool(self.source.plan.model.get("trust_remote_code"))
            self._refuse_another_base(code)
            size = _tokens(self.source.adapter, code)
            self.skeleton = units.skeleton(self.base, self.source.adapter, size, code, self.headers)

    def write(self) -> None:
        """Writes all files that are not whole yet, and the index.

        Raises:
            ProofFailed: No tensor differs from the base.
        """
        plan = self._plan()
        self.total = sum(_bytes(*facts) for file in plan.values() for facts in file.values())
        key = self._key(plan)
        kept = self._kept(key)
        written: dict[str, Any] = {}
        for file, planned in plan.items():
            if file in kept:
                written[file] = kept[file]
                self.changed |= set(kept[file]["changed"])
                self._progress(sum(_bytes(*facts) for facts in planned.values()))
                continue
            before = set(self.changed)
            size, digest = tensors.write(self.partial / file, planned, self._content, self._progress)
            written[file] = {"size": size, "sha256": digest, "changed": sorted(self.changed - before)}
            write_json(self.partial / JOURNAL, {"key": key, "files": written})
        if self.skeleton is not None:
            self._refuse_nothing_changed(plan)
        if len(plan) > 1:
            index = {
                "metadata": {"total_size": self.total},
                "weight_map": {name: file for file, planned in plan.items() for name in planned},
            }
            write_json(self.partial / INDEX, index)

    def _kinds(self) -> dict[str, str]:
        """Types of a model that was trained whole: of each tensor that of the base, for what the base does not have its usual one."""
        stored: dict[str, str] = {}
        if self.like is not None:
            for file in set(self.like.files.values()):
                stored |= {n: e.dtype for n, e in tensors.header(self.like.folder / file).items()}
        usual = next((kind for kind, name in tensors.NAMES.items() if name == self.dtype), "")
        out = {}
        for name, file in self.base.files.items():
            own = self.headers[file][name].dtype
            wanted = stored.get(name) or usual
            out[name] = wanted if {own, wanted} <= FLOATS.keys() else own
        return out

    def rest(self) -> None:
        """Writes config, tokenizer and generation config next to the weights."""
        config = {k: v for k, v in self.base.config.items() if k != "quantization_config"}
        if self.source.full:
            _say_type(config, self.dtype)
            config.pop("use_cache", None)  # training turns it off
            config |= {k: v for k, v in (self.like.config if self.like else {}).items() if k == "use_cache"}
        if self.skeleton is not None:
            parts = [config, *(config[k] for k in ("text_config",) if isinstance(config.get(k), dict))]
            for part in parts:
                if self.skeleton.rows is not None and "vocab_size" in part:
                    part["vocab_size"] = self.skeleton.rows
                if self.skeleton.untied:
                    part["tie_word_embeddings"] = False
        write_json(self.partial / "config.json", config)
        if self.source.full:
            adapter.tokenizer(self.source, self.partial)
            adapter.generation_config(self.source, self.partial)
            return
        for name in (*adapter.TOKENIZER, "generation_config.json"):
            path = self.source.adapter / name
            if path.is_dir():
                shutil.copytree(path, self.partial / name, dirs_exist_ok=True)
            elif path.is_file():
                shutil.copyfile(path, self.partial / name)
        for pattern in BASE_FILES:
            for path in self.base.folder.glob(pattern):
                if not (self.partial / path.name).exists():
                    shutil.copyfile(path, self.partial / path.name)

    def _plan(self) -> Files:
        """All tensors that are written, by file: those of the base in their order, then embeddings that are no longer tied."""
        facts: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, file in self.base.files.items():
            entry = self.headers[file][name]
            facts[name] = (self.kinds.get(name, entry.dtype), self._shape(name, entry))
        files = dict(self.base.files)
        if self.skeleton is not None:
            names, last = self.skeleton.names, list(dict.fromkeys(files.values()))[-1]
            for weight in self.skeleton.untied:
                origin = self.skeleton.tied[weight]
                if weight in names.stored:
                    continue
                spelled = names.spelled(weight)
                if spelled is None or origin not in names.stored:
                    raise UsageError(
                        f"{weight} is no longer {origin}, and it cannot be told how it would be stored",
                        hint="export the adapter alone",
                    )
                facts[spelled] = (facts[names.stored[origin][0]][0], self.skeleton.shapes[weight])
                names.weight[spelled] = weight
                names.stored[weight] = [spelled]
                files[spelled] = last
        if self.shard_bytes is None:
            out: Files = {}
            for name, file in files.items():
                out.setdefault(file, {})[name] = facts[name]
        else:
            out = _shards(facts, self.shard_bytes)
        return {file: _aligned(planned) for file, planned in out.items()}

    def _shape(self, name: str, entry: tensors.Entry) -> tuple[int, ...]:
        if self.skeleton is None:
            return entry.shape
        weight = self.skeleton.names.weight[name]
        if weight in self.skeleton.names.converted:
            return entry.shape
        return self.skeleton.shapes.get(weight, entry.shape)

    def _content(self, name: str) -> Iterator[Any]:
        """The bytes of one tensor as it is written."""
        file = self.base.files.get(name)
        old = self.headers[file][name] if file is not None else None
        value = self._value(name)
        if value is None:
            assert old is not None
            assert file is not None
            return tensors.chunks(self.base.folder / file, old)
        if old is None or tuple(value.shape) != old.shape or self._differs(value, name, old):
            self.changed.add(name)
        return tensors.pieces(value)

    def _value(self, name: str) -> torch.Tensor | None:
        """A tensor that is not the base's, in the type that is stored; None where it is copied."""
        skeleton = self.skeleton
        if skeleton is None:
            return self._rounded(name)
        weight = skeleton.names.weight[name]
        unit = skeleton.units.get(weight)
        if unit is not None:
            if self._unit is None or self._unit[0] != unit:
                self._unit = None  # the memory of the last one is needed now
                self._unit = (unit, self._stored(skeleton, skeleton.merged(unit)))
            return self._unit[1].pop(name) if name in self._unit[1] else self._again(name, unit)
        grown = weight in skeleton.shapes and self._grows(name, weight)
        if weight not in skeleton.given and not grown:
            return None
        return self._stored(skeleton, {weight: skeleton.load(weight)})[name]

    def _rounded(self, name: str) -> torch.Tensor | None:
        """A tensor of a model that was trained whole, rounded once; None where it has its type already."""
        file = self.base.files[name]
        entry = self.headers[file][name]
        if self.kinds[name] == entry.dtype:
            return None
        trained = tensors.load(self.base.folder / file, entry)
        out = trained.to(tensors.TYPES[self.kinds[name]])
        if not torch.isfinite(out).all():
            kind = tensors.NAMES[self.kinds[name]]
            broken = "is not finite" if not torch.isfinite(trained).all() else f"has numbers too large for {kind}"
            raise ProofFailed(f"{name} {broken}, the type of the base", hint="a lower training.learning_rate keeps it")
        return out

    def _again(self, name: str, unit: str) -> torch.Tensor:
        """A tensor of a module that was merged for another file before."""
        self._unit = None
        assert self.skeleton is not None
        self._unit = (unit, self._stored(self.skeleton, self.skeleton.merged(unit)))
        return self._unit[1].pop(name)

    def _grows(self, name: str, weight: str) -> bool:
        assert self.skeleton is not None
        file = self.base.files.get(name)
        return file is None or (
            weight not in self.skeleton.names.converted
            and self.headers[file][name].shape != self.skeleton.shapes[weight]
        )

    def _stored(self, skeleton: units.Skeleton, made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weights by the names under which they are stored, rounded to the types that are stored."""
        out = {}
        for weight in list(made):
            for name, value in skeleton.names.back(weight, made.pop(weight)).items():
                if name not in skeleton.names.weight:
                    continue
                file = self.base.files.get(name)
                like = self.headers[file][name] if file else skeleton.names.entry(self._origin(skeleton, weight))
                out[name] = value.to(tensors.TYPES[like.dtype])
        return out

    def _origin(self, skeleton: units.Skeleton, weight: str) -> str:
        return skeleton.names.stored[skeleton.tied[weight]][0]

    def _differs(self, value: torch.Tensor, name: str, old: tensors.Entry) -> bool:
        path = self.base.folder / self.base.files[name]
        pairs = zip(tensors.pieces(value), tensors.chunks(path, old), strict=False)
        return any(bytes(new) != was for new, was in pairs)

    def _refuse_nothing_changed(self, plan: Files) -> None:
        assert self.skeleton is not None
        names, of = self.skeleton.names.weight, self.skeleton.units
        reached = dict.fromkeys(of[names[n]] for file in plan.values() for n in file if names[n] in of)
        moved = {of[names[n]] for n in self.changed if names[n] in of}
        if not self.changed:
            with contextlib.suppress(OSError):
                shutil.rmtree(self.partial)
            raise ProofFailed(
                f"the merged model is the base model: none of the {len(reached)} modules that the adapter reaches changes in "
                f"{self.base.dtype}",
                hint="was anything learned? tune report shows the loss; a higher training.learning_rate changes more",
            )
        same = [unit for unit in reached if unit not in moved]
        if same:
            self.send(
                type="warning",
                what=f"{len(same)} of {len(reached)} modules that the adapter reaches stay what they were in {self.base.dtype}, "
                f"first {same[0]}",
                hint="what was learned there is smaller than the last bit",
            )

    def _refuse_another_base(self, code: bool) -> None:
        then = (self.source.facts.get("base") or {}).get("fingerprint")
        plan = self.source.plan
        dtype = str((plan.model.get("init") or {}).get("dtype") or "")
        if not then or plan.quantization or dtype not in ("float32", "bfloat16", "float16"):
            return
        now = units.fingerprint(self.base, dtype, code)
        if now is not None and now != then:
            raise UsageError(
                f"{self.base.folder} is not the base model that run {self.source.run.id} trained: its weights differ "
                f"({then[:8]} then, {now[:8]} now)",
                hint="put back the model that was there then; model.revision holds a hub model in place",
            )

    def _key(self, plan: Files) -> str:
        """What a file that is whole belongs to: other weights, another base or other libraries make it worthless."""
        listed = [(file, *_stat(self.base.folder / file)) for file in self.headers]
        made = [] if self.source.full else [_sha256(self.source.adapter / n) for n in (adapter.WEIGHTS, adapter.CONFIG)]
        told = [self.source.facts, made, str(self.base.folder), listed, plan, versions()]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def _kept(self, key: str) -> dict[str, Any]:
        """Files of an earlier attempt that are whole; everything else of it is removed."""
        found: dict[str, Any] = {}
        with contextlib.suppress(UsageError):
            found = read_json(self.partial / JOURNAL) or {}
        listed = found.get("files") or {} if found.get("key") == key else {}
        kept = {}
        for file, facts in listed.items():
            path = self.partial / file
            if path.is_file() and path.stat().st_size == facts["size"] and _sha256(path) == facts["sha256"]:
                kept[file] = facts
        for path in self.partial.iterdir():
            if path.name not in kept and path.name != JOURNAL:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return kept

    def _progress(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self._told >= EVERY_S or self.done == self.total:
            self._told = now
            self.send(type="progress", stage="merge", done=self.done, total=self.total, unit="bytes")


def base_config(plan: Plan) -> dict[str, Any]:
    """config.json of the base, from its folder or the hub's cache; empty where it is gone. Never downloads."""
    name = str(plan.model.get("name_or_path") or "")
    folder = Path(name).expanduser()
    path = folder / "config.json" if folder.is_dir() else hub.cached_config(name)
    found = read_json(path) if path else None
    return found if isinstance(found, dict) else {}


def _say_type(config: dict[str, Any], dtype: str) -> None:
    """Names `dtype` as the type of the weights, in the parts of a config as well."""
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    for part in config.values():
        if isinstance(part, dict) and ("dtype" in part or "torch_dtype" in part):
            _say_type(part, dtype)


def _tokens(folder: Path, code: bool) -> int:
    """Length of the tokenizer in `folder`."""
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(folder, trust_remote_code=code))


def _shards(facts: Mapping[str, tuple[str, tuple[int, ...]]], most: int) -> Files:
    """Tensors in their order, in files of at most `most` bytes of weights."""
    groups: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    size = 0
    for name, fact in facts.items():
        if groups[-1] and size + _bytes(*fact) > most:
            groups.append({})
            size = 0
        groups[-1][name] = fact
        size += _bytes(*fact)
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def _aligned(planned: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Wide types first, so that every tensor begins at a multiple of its own width; the order is kept otherwise."""
    return dict(sorted(planned.items(), key=lambda item: -tensors.TYPES[item[1][0]].itemsize))


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    return prod(shape) * tensors.TYPES[kind].itemsize


def _stat(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
