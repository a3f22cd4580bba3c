"""The steps of an export in their order. What is there already is not made again; what is there and not proved is proved."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nothing_tune.artifacts import Run, write_text
from nothing_tune.engine import failures
from nothing_tune.engine.export import adapter, base, gguf, merge, proof, push, serving, source
from nothing_tune.engine.export.source import Base, Source
from nothing_tune.engine.job import Send
from nothing_tune.errors import Busy, OutOfMemory, StorageError, TuneError, UsageError
from nothing_tune.outputs import Wanted, card, manifest, quantizations, record
from nothing_tune.outputs.sizes import between

LOCK = ".lock"
ADAPTER_GGUF = "adapter-f16"


def work(request: dict[str, Any], send: Send) -> None:
    """Does what a request asks; see the box's docstring.

    Raises:
        UsageError: The run has no such weights, or something it needs is missing.
        StorageError: The disk refuses, or a file is damaged.
        Busy: Another export works in the same folder.
    """
    if request.get("do") == "verify":
        _verify(Path(request["folder"]), send)
    else:
        run = Run(Path(request["run"]).absolute())
        to = Path(request["to"]) if request.get("to") else None
        found = source.source(run, str(request.get("which") or "handed-over"), to)
        wanted = Wanted.from_json(request["wanted"])
        if request.get("do") == "list":
            _push(found, wanted, send, dry_run=True)
        else:
            with _held(found.folder), _told(found.folder):
                _Export(found, wanted, send).make()
    send(type="report")


@dataclass
class _Export:
    """One export: what it starts from, what is wanted, and what is loaded only once."""

    source: Source
    wanted: Wanted
    send: Send

    def make(self) -> None:
        """Makes everything in order."""
        src, wanted = self.source, self.wanted
        found = self.known_base
        src.facts["base"] |= {
            "revision": (found.revision if found else "") or src.facts["base"].get("revision"),
            "licence": found.licence if found else "",
        }
        self.send(
            type="source", run=src.run.id, step=src.step, folder=str(src.folder), weights=str(src.weights),
            base=src.facts.get("base"),
        )  # fmt: skip
        if not src.full:
            self._output("adapter", "adapter", {}, lambda folder: adapter.make(src, self.send), self._adapter_proof)
        kept = wanted.merged or src.full
        there = manifest.done(src.folder / "merged", "merged", src.facts, self._merged_settings()) is not None
        missing = [n for n in self._types() if not self._has(n)]
        if kept or missing:
            self._output("merged", "merged", self._merged_settings(), self._merge, self._merged_proof, kept or there)
        self._gguf()
        if missing and not kept and not there:
            shutil.rmtree(src.folder / "merged", ignore_errors=True)
        self._texts()
        if wanted.push:
            _push(src, wanted, self.send, dry_run=False)

    def _gguf(self) -> None:
        """All GGUF files, and the adapter alone."""
        folder = self.source.folder / "gguf"
        for name in [*self._types(), *([ADAPTER_GGUF] if self.wanted.gguf_adapter else [])]:
            make = partial(self._make_gguf, name=name)
            self._output("gguf", name, self._gguf_settings(name), make, partial(self._gguf_proof, name))
        for left in folder.glob(".*.gguf"):
            left.unlink(missing_ok=True)

    def _make_gguf(self, folder: Path, name: str) -> None:
        """One GGUF file; a quantised one comes from one that holds the weights as they are."""
        out, model = folder / self._file(name), self.source.folder / "merged"
        if name == ADAPTER_GGUF:
            gguf.convert_adapter(self.source.adapter, self.base.folder, out, self.send)
            return
        if name in quantizations.UNQUANTISED:
            gguf.convert(model, out, name, self.send, self.source.plan.name)
            return
        lossless = between(self.dtype)
        whole = folder / self._file(lossless)
        if not self._has(lossless):
            whole = folder / f".{self.source.facts['digest'][:16]}-{lossless}.gguf"
            if not whole.is_file():
                gguf.convert(model, whole, lossless, self.send, self.source.plan.name)
        gguf.quantize(whole, out, name, self.send)

    def _types(self) -> list[str]:
        """GGUF types in the order in which they are made: first the one that the others are made from, where it is kept."""
        return sorted(self.wanted.gguf, key=lambda name: name != between(self.dtype))

    def _has(self, name: str) -> bool:
        return (
            manifest.done(self.source.folder / "gguf", name, self.source.facts, self._gguf_settings(name)) is not None
        )

    def _output(
        self,
        kind: str,
        name: str,
        settings: dict[str, Any],
        make: Callable[[Path], Any],
        prove: Callable[[], dict[str, Any]],
        kept: bool = True,
    ) -> None:
        """Makes an output unless it is there; proves it unless it is proved, and tells of it, unless it is only on the way."""
        folder, facts = self.source.folder / kind, self.source.facts
        entry = manifest.done(folder, name, facts, settings)
        there, began = entry is not None, time.monotonic()
        if entry is None:
            self.send(type="stage", output=name, what=f"making {name}")
            folder.mkdir(parents=True, exist_ok=True) if kind == "gguf" else None
            make(folder)
            files = [folder / self._file(name)] if kind == "gguf" else _weights_and_tokenizer(folder)
            entry = manifest.add(folder, kind, name, facts, files, settings, time.monotonic() - began)
        if not kept:
            return
        proved = entry.get("proof")
        if self.wanted.prove and not (there and proved and proved.get("ok")):
            self.send(type="stage", output=name, what=f"proving {name}")
            proved = prove()
            manifest.set_proof(folder, name, proved)
        self.send(
            type="output", output=name, path=str(folder / self._file(name) if kind == "gguf" else folder), there=there,
            bytes=sum(f["size"] for f in entry["files"].values()), seconds=round(time.monotonic() - began, 2), proof=proved,
        )  # fmt: skip

    def _merge(self, folder: Path) -> None:
        merge.make(self.source, self.known_base, folder, self.send)

    def _adapter_proof(self) -> dict[str, Any]:
        return proof.adapter(self.source, self.reference)

    def _merged_proof(self) -> dict[str, Any]:
        return proof.merged(self.source.folder / "merged", self.source, self.reference)

    def _gguf_proof(self, name: str) -> dict[str, Any]:
        return proof.gguf(self.source.folder / "gguf" / self._file(name), name, self.source, self.reference)

    @cached_property
    def base(self) -> Base:
        """The base model's files."""
        return base.find(self.source.plan)

    @cached_property
    def known_base(self) -> Base | None:
        """The base; None where it is gone and not needed, because the whole model was trained."""
        try:
            return self.base
        except UsageError as error:
            if not self.source.full:
                raise
            problem = error.problems[0]
            self.send(
                type="warning", what=f"{problem.what}; answers cannot be compared", hint=problem.hint.split(";")[0]
            )
            return None

    @cached_property
    def dtype(self) -> str:
        """Type of the whole model's weights as they are stored."""
        if not self.source.full:
            return self.base.dtype
        return merge.whole_dtype(self.source.plan, self.known_base, base.at(self.source.weights))

    @cached_property
    def reference(self) -> Any:
        """What the run answers, which every output is compared with."""
        return proof.reference(self.source, self.known_base, self.send) if self.known_base else None

    def _merged_settings(self) -> dict[str, Any]:
        return {"dtype": self.dtype}

    def _gguf_settings(self, name: str) -> dict[str, Any]:
        return {"type": name, "llama_cpp": gguf.VERSION}

    def _file(self, name: str) -> str:
        """`marco-q4_k_m.gguf`."""
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.source.plan.name)}-{name}.gguf"

    def _texts(self) -> None:
        """Cards into every folder, and the files that say how it is served."""
        for use in serving.make(self.source, self.wanted, self.send):
            self.send(type="usage", **use)
        facts, known = record.of_run(self.source.run), serving.of_card(self.source, self.wanted)
        for folder in (self.source.folder / kind for kind in ("adapter", "merged", "gguf")):
            if manifest.read(folder):
                write_text(folder / "README.md", card.card(folder, facts, known))


def _weights_and_tokenizer(folder: Path) -> list[Path]:
    """Files of an output that is a whole folder; the card is written later, and may be written again."""
    return [p for p in folder.rglob("*") if p.is_file() and p.name not in (manifest.NAME, "README.md")]


def _verify(folder: Path, send: Send) -> None:
    """Proves every output below `folder` again and keeps what was found."""
    for output in proof.verify(folder, send):
        send(type="output", **output)


def _push(found: Source, wanted: Wanted, send: Send, dry_run: bool) -> None:
    push.push(found.folder, wanted.push, wanted.private, dry_run, send, force=not wanted.prove)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Says of a full disk and of too little memory what that means for an export."""
    try:
        yield
    except Exception as error:
        known = failures.explain(error)
        if isinstance(error, TuneError) or not isinstance(known, StorageError | OutOfMemory):
            raise
        if isinstance(known, StorageError):
            what, cure = (
                f"the disk refused to write in {folder}: it is full or failing",
                "free some space, or --to another disk",
            )
            raise StorageError(what, hint=f"{cure}; the same command goes on") from error
        raise OutOfMemory(known.problems[0].what, hint="a machine with more memory, or --no-proof") from error


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Holds a folder of exports against a second export. `Busy` when another process has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"cannot write in {folder}: {error.strerror}", hint="--to names another folder") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another export works in {folder}", hint="wait for it to end; what it makes is kept") from None
        yield
    finally:
        os.close(descriptor)
