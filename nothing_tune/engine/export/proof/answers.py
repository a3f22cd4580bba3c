"""What the run answers: the yardstick of all its exports, computed once from the 16-bit base and the adapter, unmerged, in float32.

It is kept beside the exports, so that a further one, or `--verify`, need not load the base again:

    exports/step-N/.proof/reference.safetensors   log-probabilities `run` and `base`, [places, vocabulary], float32
    exports/step-N/.proof/reference.json          texts, what else was found out, sha256 of the file above, what it belongs to
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nothing_tune.artifacts import checkpoint, read_json, write_json
from nothing_tune.engine import build, fingerprints, starts
from nothing_tune.engine.export import stops
from nothing_tune.engine.export.proof import models
from nothing_tune.engine.export.proof.checks import distance
from nothing_tune.engine.export.proof.prompts import Prompt, prompts
from nothing_tune.engine.export.source import Base, Source
from nothing_tune.engine.job import Send
from nothing_tune.errors import TuneError

FOLDER = ".proof"
SCHEMA = 1
ANSWERS, ANSWER = 3, 48
"""Rows of the run's own data that are answered, and how many tokens an answer may take."""
LARGE, LARGE_ANSWERS, LARGE_ANSWER = 2 * 10**9, 1, 32
"""Parameters from which a CPU is slow, and the same numbers then."""


@dataclass(frozen=True)
class Reference:
    """What the run answers.

    Attributes:
        prompts: The texts.
        run: Log-probabilities of the run, `[places of all prompts, vocabulary]`.
        base: Those of the base model alone.
        facts: What else was found out:
            `effect` mean KL(run || base), what the training changed; `answers` `[{"prompt", "tokens", "ended"}]` of the run;
            `end` mean probability of the end of the turn at the end of an answer, None without one; `why` why the run's own data is
            not among the texts; `base` `{"ok", "why"}` whether the base is the one trained on; `trained` `{"kl", "top1"}` of the run
            as it was trained on a quantised base, None where there is none; `parameters`.
        digest: sha256 of the stored log-probabilities.
        stored: Whether it was computed before, and only read now.
    """

    prompts: tuple[Prompt, ...]
    run: torch.Tensor
    base: torch.Tensor
    facts: dict[str, Any]
    digest: str = ""
    stored: bool = False

    @property
    def numbers(self) -> dict[str, Any]:
        """What every proof names of it."""
        return {
            "effect": self.facts["effect"],
            "tokens": int(self.run.shape[0]),
            "prompts": len(self.prompts),
            "reference": self.digest,
        }


def reference(source: Source, base: Base, send: Send) -> Reference:
    """The run's answers, read where they were computed before from the same weights, else computed.

    Raises:
        ProofFailed: The memory does not suffice.
    """
    key = _key(source, base)
    found = stored(source.folder, key)
    if found is not None:
        return found
    made = _compute(source, base, send)
    return _store(source.folder, key, made)


def stored(folder: Path, key: dict[str, Any]) -> Reference | None:
    """What was kept in `folder` of the weights that `key` names; None without it, or where it is damaged or of others.

    Without `files` in the key (the base is gone) those of the base are not compared.
    """
    told = read_json(folder / FOLDER / "reference.json")
    path = folder / FOLDER / "reference.safetensors"
    if not isinstance(told, dict) or told.get("schema") != SCHEMA or not path.is_file():
        return None
    of = told.get("of") or {}
    if any(of.get(name) != value for name, value in key.items()):
        return None
    with open(path, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if digest != told.get("sha256"):
        return None
    from safetensors.torch import load_file

    tensors = load_file(path)
    return Reference(
        tuple(Prompt.from_json(p) for p in told["prompts"]),
        tensors["run"],
        tensors["base"],
        told["facts"],
        digest,
        True,
    )


def weights_of(source: Source) -> dict[str, Any]:
    """What a reference belongs to, as far as it is known without the base."""
    facts = json.loads(json.dumps(source.facts, default=str))
    return {"run": facts.get("run"), "step": source.step, "digest": facts.get("digest")}


def _key(source: Source, base: Base) -> dict[str, Any]:
    files = {}
    for path in sorted({base.folder / name for name in base.files.values()} | {base.folder / "config.json"}):
        with contextlib.suppress(OSError):
            files[path.name] = [path.stat().st_size, path.stat().st_mtime_ns]
    return {**weights_of(source), "files": files}


def _store(folder: Path, key: dict[str, Any], made: Reference) -> Reference:
    """Keeps it; a disk that has no room for it costs only that it is computed again."""
    from safetensors.torch import save_file

    target = folder / FOLDER
    with contextlib.suppress(OSError, TuneError):
        target.mkdir(parents=True, exist_ok=True)
        (target / "reference.json").unlink(missing_ok=True)
        path = target / "reference.safetensors"
        save_file({"run": made.run.contiguous(), "base": made.base.contiguous()}, path)
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        told = {
            "schema": SCHEMA, "of": key, "sha256": digest, "facts": made.facts, "prompts": [p.to_json() for p in made.prompts]
        }  # fmt: skip
        write_json(target / "reference.json", told)
        return Reference(made.prompts, made.run, made.base, made.facts, digest)
    return made


def _compute(source: Source, base: Base, send: Send) -> Reference:
    plan, trust = source.plan, bool(source.plan.model.get("trust_remote_code"))
    count = models.parameters(base.folder)
    width = int(_text(base.config).get("vocab_size") or 0)
    where = models.device(count, max(width, 1))
    own = tokenizer(source)
    texts, why = prompts(
        source.run, plan, own, load_tokenizer(base.folder, trust), max(width, len(own)) if width else len(own)
    )
    usable = [p for p in texts if p.own and p.answer]
    asked = usable[: LARGE_ANSWERS if count >= LARGE else ANSWERS]
    length = LARGE_ANSWER if count >= LARGE else ANSWER
    trained, told = _as_trained(source, texts, own, send) if plan.quantization else (None, None)
    send(type="progress", stage="run", done=0, total=2, unit="models")
    with models.exact(), models.loaded(base.folder, trust, where) as model:
        if not plan.quantization:
            told = _base_is_the_same(source, model)
        build.grow(model, own)
        bare = models.log_probabilities(model, texts)
        send(type="progress", stage="run", done=1, total=2, unit="models")
        if not source.full:
            model = with_adapter(model, source.weights, source)
            run, answers = _asked(model, texts, asked, own, length)
    if source.full:
        with models.loaded(source.weights, trust, where) as model:
            run, answers = _asked(model, texts, asked, own, length)
    send(type="progress", stage="run", done=2, total=2, unit="models")
    apart = distance(run, trained) if trained is not None else None
    facts = {
        "effect": distance(run, bare).kl, "answers": answers, "end": _end(texts, run), "why": why, "base": told,
        "trained": {"kl": apart.kl, "top1": apart.top1} if apart else None, "parameters": count, "device": where,
    }  # fmt: skip
    return Reference(tuple(texts), run, bare, facts)


def _asked(
    model: Any, texts: list[Prompt], asked: list[Prompt], own: Any, length: int
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    ends = stops.stops(own, model.generation_config)
    answers = []
    for prompt in asked:
        said = models.answer(model, prompt, ends, length)
        answers.append({"prompt": texts.index(prompt), "tokens": len(said), "ended": bool(said) and said[-1] in ends})
    return models.log_probabilities(model, texts), answers


def with_adapter(model: Any, folder: Path, source: Source) -> Any:
    """`model` with the adapter of `folder`, unmerged; PiSSA and OLoRA start as they did in the run."""
    from peft import PeftModel

    config = read_json(folder / "adapter_config.json") or {}
    kind = str(config.get("init_lora_weights", "")).lower()
    start = source.run.path / starts.FILE
    moved = (
        starts.replayed(start) if kind.startswith(build.MOVES_BASE) and start.is_file() else contextlib.nullcontext()
    )
    with moved:
        found = PeftModel.from_pretrained(model, str(folder))
    return found.to(torch.float32).eval()


def tokenizer(source: Source) -> Any:
    """The run's tokenizer: that of the committed weights, else the exported one."""
    folder = source.weights if (source.weights / "tokenizer_config.json").is_file() else source.adapter
    return load_tokenizer(folder, bool(source.plan.model.get("trust_remote_code")))


def load_tokenizer(folder: Path, trust: bool) -> Any:
    """The tokenizer in `folder`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust)


def _text(config: dict[str, Any]) -> dict[str, Any]:
    return config if "vocab_size" in config else config.get("text_config") or config


def _end(texts: list[Prompt], run: torch.Tensor) -> float | None:
    """Mean probability that the run gives to the end of the turn where a row of its own data has it."""
    found, row = [], 0
    for prompt in texts:
        if prompt.ends is not None and prompt.ends - 1 in prompt.places:
            found.append(math.exp(float(run[row + prompt.places.index(prompt.ends - 1), prompt.ids[prompt.ends]])))
        row += len(prompt.places)
    return sum(found) / len(found) if found else None


def _then(source: Source) -> str | None:
    """Fingerprint of the base that the run was trained on, of its checkpoints; None where none tells."""
    folders = [
        source.weights,
        *(source.run.checkpoints / f"checkpoint-{s}" for s in checkpoint.complete(source.run.checkpoints)),
    ]
    for folder in folders:
        with contextlib.suppress(TuneError):
            found = (checkpoint.read(folder).get("fingerprints") or {}).get("model")
            if found:
                return str(found)
    return None


def _base_is_the_same(source: Source, model: Any) -> dict[str, Any]:
    """Whether the base, loaded in float32, is the one that the run was trained on."""
    then = _then(source)
    if then is None:
        return {"ok": None, "why": "the run kept no fingerprint of its base"}
    now = models.fingerprint(model, str((source.plan.model.get("init") or {}).get("dtype")))
    if now == then:
        return {"ok": True, "why": ""}
    try:  # some models keep parts of themselves in another type: load it just as it was trained
        now = fingerprints.of_model(build.model(source.plan))
    except Exception as error:
        return {"ok": None, "why": f"the base could not be loaded as it was trained: {type(error).__name__}"}
    return {"ok": now == then, "why": "" if now == then else f"{then[:8]} then, {now[:8]} now"}


def _as_trained(
    source: Source, texts: list[Prompt], own: Any, send: Send
) -> tuple[torch.Tensor | None, dict[str, Any]]:
    """Log-probabilities of the adapter on the quantised base, and whether that base is the one trained on."""
    then = _then(source)
    send(type="progress", stage="as trained", done=0, total=1, unit="models")
    try:
        with models.exact():
            model = build.model(source.plan)
            now = fingerprints.of_model(model)
            build.grow(model, own)
            run = models.log_probabilities(with_adapter_as_is(model, source.weights), texts)
            where = str(model.device)
            del model
    except Exception as error:  # no library, no GPU: the quantised base cannot be had here
        return None, {"ok": None, "why": f"the quantised base cannot be loaded here ({type(error).__name__})"}
    send(type="progress", stage="as trained", done=1, total=1, unit="models")
    if then is None:
        return run, {"ok": None, "why": "the run kept no fingerprint of its base"}
    if now == then:
        return run, {"ok": True, "why": ""}
    there = str(((read_json(source.run.path / "machine.json") or {}).get("engine") or {}).get("device") or where)
    if there.split(":")[0] != where.split(":")[0]:
        return run, {"ok": None, "why": f"it was quantised on {there}, here on {where}, which may round otherwise"}
    return run, {"ok": False, "why": f"{then[:8]} then, {now[:8]} now"}


def with_adapter_as_is(model: Any, folder: Path) -> Any:
    """A quantised `model` with the adapter of `folder`, in the types it was trained in."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder)).eval()
