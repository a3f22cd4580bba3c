"""Loads models in float32 to be compared, if the memory suffices, and asks them: log-probabilities on given texts, greedy answers."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from nothing_tune.discovery import host_memory
from nothing_tune.engine import fingerprints
from nothing_tune.engine.export.proof.prompts import LENGTH, Prompt
from nothing_tune.errors import ProofFailed

SPARE = 1.1
"""Times the weights that must be free: what flows through the layers, and the libraries."""
GIB = 2**30


def parameters(folder: Path) -> int:
    """Numbers in all safetensors files of `folder`, read from their headers."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118  # it is no mapping
                count = 1
                for length in handle.get_slice(name).get_shape():
                    count *= length
                total += count
    return total


def device(count: int, vocabulary: int) -> str:
    """Where a model of `count` parameters is computed in float32: `cuda` if it fits there, else `cpu`.

    Raises:
        ProofFailed: It fits nowhere; said before anything is loaded.
    """
    needed = int(SPARE * 4 * count) + 3 * 4 * vocabulary * LENGTH
    on_card = None
    if torch.cuda.is_available():
        on_card = torch.cuda.mem_get_info()[0]
        if on_card >= needed:
            return "cuda"
    _, free = host_memory()
    if free is not None and free < needed:
        card = f", the GPU has {on_card / GIB:.1f}" if on_card is not None else ""
        raise ProofFailed(
            f"the proof needs {needed / GIB:.1f} GiB of memory to compute {count / 1e9:.2f} billion weights in float32, "
            f"{free / GIB:.1f} GiB are free{card}",
            hint="close other programs, or copy the run to a machine with more memory; --no-proof makes it unproved, the card says so",
        )
    return "cpu"


@contextlib.contextmanager
def loaded(folder: Path, trust: bool, where: str) -> Iterator[Any]:
    """The model in `folder` in float32 on `where`, ready to be asked; its memory is given back at the end."""
    from trl.trainer.utils import create_model_from_path

    with exact():
        model = create_model_from_path(
            str(folder), dtype=torch.float32, trust_remote_code=trust, device_map={"": 0} if where == "cuda" else None
        )
        model.eval()
        model.config.use_cache = True
        try:
            yield model
        finally:
            del model
            gc.collect()
            if where == "cuda":
                torch.cuda.empty_cache()


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """While it lasts, libraries tell nothing and a GPU multiplies float32 without TF32, which would round to 10 bits."""
    import transformers

    before = torch.backends.cuda.matmul.allow_tf32, transformers.logging.get_verbosity()
    torch.backends.cuda.matmul.allow_tf32 = False
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[0]
        transformers.logging.set_verbosity(before[1])


def vocabulary(model: Any) -> int:
    """Width of the model's logits."""
    return int(model.get_input_embeddings().weight.shape[0])


def log_probabilities(model: Any, prompts: Sequence[Prompt]) -> torch.Tensor:
    """What `model` says after each place of each prompt, teacher-forced: `[places in all, vocabulary]`, float32, on the CPU."""
    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt.ids], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0]
            rows.append(torch.log_softmax(logits[list(prompt.places)].float(), -1).cpu())
    return torch.cat(rows)


def answer(model: Any, prompt: Prompt, stops: Sequence[int], tokens: int) -> list[int]:
    """The greedy answer to the beginning of a prompt, at most `tokens` long, its end among it where it came to one."""
    ids = torch.tensor([prompt.ids[: prompt.answer]], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, num_beams=1,
            eos_token_id=list(stops) or None, pad_token_id=stops[0] if stops else 0, repetition_penalty=1.0,
        )  # fmt: skip
    return [int(i) for i in out[0, ids.shape[1] :]]


class _As:
    """A model's weights as they would be in another type, for their fingerprint."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._weights, self._dtype = model.state_dict(), dtype

    def state_dict(self) -> _As:
        return self

    def items(self) -> Iterator[tuple[str, Any]]:
        for name, weight in self._weights.items():
            yield name, weight.to(self._dtype) if weight.is_floating_point() else weight


def fingerprint(model: Any, dtype: str) -> str:
    """`fingerprints.of_model` of a model that was loaded in float32, as if it had been loaded in `dtype`."""
    return fingerprints.of_model(_As(model, getattr(torch, dtype)))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model; empty without one."""
    path = folder / "config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
