"""What the tests of merges share: a run is merged, models are loaded again and compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nothing_tune.artifacts import Run, write_json
from nothing_tune.engine.export import adapter, base, merge
from nothing_tune.engine.export.source import Source, source
from nothing_tune.plan.model import PLAN_VERSION, Plan

IDS = torch.arange(7, 47).reshape(2, 20)


class Heard:
    """Collects events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, **fields: Any) -> None:
        self.events.append(fields)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["type"] == kind]


def log_probs(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        out: torch.Tensor = torch.log_softmax(model(input_ids=IDS).logits.double(), -1)
    return out


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """Mean KL(p || q) in nats over the words that both know."""
    words = min(p.shape[-1], q.shape[-1])
    return float((p[..., :words].exp() * (p[..., :words] - q[..., :words])).sum(-1).mean())


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def adapted(model: Path, folder: Path) -> Any:
    """The model as PEFT loads it with the adapter in `folder`, grown to the adapter's tokenizer."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    from nothing_tune.engine import build

    loaded = plain(model)
    build.grow(loaded, AutoTokenizer.from_pretrained(folder))
    return PeftModel.from_pretrained(loaded, str(folder))


def merged(run: Run, **how: Any) -> tuple[Source, Path, Heard]:
    """The exported adapter's source, the merged model's folder, and the events."""
    found, heard = source(run, "handed-over"), Heard()
    if not found.full:
        adapter.make(found, heard)
    folder = found.folder / "merged"
    merge.make(found, base.find(found.plan), folder, heard, **how)
    return found, folder, heard


def weights(folder: Path) -> dict[str, torch.Tensor]:
    out = {}
    for path in sorted(folder.glob("*.safetensors")):
        out.update(load_file(path))
    return out


def copied(run: Run, model: Path, tmp: Path) -> Run:
    """A copy of a run and of its base, in `run/` and `base/` of `tmp`, that may be damaged."""
    shutil.copytree(model, tmp / "base")
    shutil.copytree(run.path, tmp / "run")
    made = Run(tmp / "run")
    shutil.rmtree(made.path / "exports", ignore_errors=True)
    plan = made.plan()
    plan["model"]["name_or_path"] = str(tmp / "base")
    write_json(made.path / "plan.json", plan)
    return made


def random_adapter(model: Path, tmp: Path, settings: Any) -> tuple[Source, Any]:
    """A run's source with a random adapter by PEFT on `model`, and the model as PEFT has it."""
    from peft import get_peft_model
    from transformers import AutoTokenizer

    torch.manual_seed(4)
    made = get_peft_model(plain(model), settings)
    for value in (p for p in made.parameters() if p.requires_grad):
        value.data = value.data + torch.randn_like(value) * 0.1
    made.save_pretrained(tmp / "adapter")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp / "adapter")
    plan = Plan.from_json(
        {
            "version": PLAN_VERSION, "name": "x", "gpu": {}, "values": {}, "model": {"name_or_path": str(model)}, "data": {},
            "quantization": None,
            "peft": {"peft_type": "LORA"}, "training": {}, "tracking": {}, "monitor": {}, "checkpoint": {}, "trainable_dtype": None,
            "world_size": 1, "why": {},
        }
    )  # fmt: skip
    return Source(Run(tmp), plan, 1, tmp, tmp / "adapter", False, {}), made
