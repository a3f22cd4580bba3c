"""The plan of a rehearsal: the recipe's own plan with only that changed which a small machine or a short run asks for. Pure.

Every change that a person should know of is told in one line; what is not told is as in the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nothing_tune.plan.model import Plan

STEPS, EVERY = 4, 2
"""Steps of a rehearsal, and steps between two checkpoints and two evaluations: so that half of it is done again."""
MICRO, ACCUMULATION = 2, 2
"""Rows at once, and batches a step, at most."""
LARGE_VOCABULARY = 65_536
"""Tokens from which one row at once is trained on: the loss of each takes as long as the rest of a small model."""
NO_GPU = {
    "tf32": "tf32 is for GPUs", "torch_compile": "torch_compile is left out", "use_liger_kernel": "Liger's kernels are for GPUs",
    "deepspeed": "deepspeed is left out", "fsdp": "fsdp is left out", "fsdp_config": "", "torch_compile_backend": "",
    "torch_compile_mode": "", "parallelism_config": "parallelism_config is left out", "liger_kernel_config": "",
}  # fmt: skip
"""Arguments that a CPU cannot follow, with what is said where they are set."""
CPU_OPTIMIZERS = {
    "adamw_apex_fused": "adamw_torch", "adamw_torch_npu_fused": "adamw_torch", "adamw_torch_xla": "adamw_torch",
}  # fmt: skip
DECOMPOSES = ("pissa", "olora", "loftq")
MOST_RANK = 32
"""Highest rank that a decomposition of the small weights gives."""
LAYER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


@dataclass(frozen=True)
class Material:
    """What a rehearsal trains on.

    Attributes:
        model: Folder of the small model.
        train: Files with the chosen training rows, `(path, format)` each.
        eval: The same for evaluation rows; empty for none.
        layers: Numbers of the full model's layers that the small one's stand for.
        depth: Layers of the full model.
        targets: Names of the modules that the adapter takes on the full model; empty where that is not known.
        quantization: Keyword arguments of BitsAndBytesConfig that the checkpoint itself brings; None for none.
        vocabulary: Tokens that the model knows; 0 where that is not known.
    """

    model: str
    train: Sequence[tuple[str, str]]
    eval: Sequence[tuple[str, str]] = ()
    layers: Sequence[int] = ()
    depth: int = 0
    targets: Sequence[str] = ()
    quantization: Mapping[str, Any] | None = None
    vocabulary: int = 0


def has_sample(plan: Plan) -> bool:
    """Whether the recipe brings a sample of its data."""
    return bool((plan.data.get("sample") or {}).get("train"))


def on_sample(plan: Plan) -> Plan:
    """The plan on the recipe's sample: read as it is, with evaluation rows of its own where it has some."""
    sample = plan.data.get("sample") or {}
    over = {
        "train": sample.get("train"),
        "eval": sample.get("eval") or plan.data.get("eval"),
        "format": "auto",
        "columns": None,
        "group_by": None,
        "stratify_by": None,
        "max_samples": None,
    }
    return replace(plan, data={**plan.data, **over})


def rehearsal(plan: Plan, material: Material) -> tuple[Plan, list[str]]:
    """`(the plan that is rehearsed, what was replaced, one line each)`."""
    said: list[str] = []
    training = _training(plan, said, 1 if material.vocabulary > LARGE_VOCABULARY else MICRO)
    init = dict(plan.model.get("init") or {})
    attention = str(init.get("attn_implementation") or "sdpa")
    if attention not in ("sdpa", "eager"):
        said.append(f"attention {attention} -> sdpa: it needs a GPU")
        init["attn_implementation"] = "sdpa"
    if init.pop("use_kernels", None):
        said.append("model.use_kernels is left out: kernels are for GPUs")
    half = init.get("dtype") == "float16"
    if half:
        init["dtype"] = "float32"
    quantization = dict(plan.quantization or material.quantization or {}) or None
    if quantization and half and quantization.get("bnb_4bit_compute_dtype") == "float16":
        quantization["bnb_4bit_compute_dtype"] = "float32"
    if plan.training.get("fp16") or half:
        said.append("fp16 -> float32: a CPU does not train in float16")
    if plan.world_size > 1:
        said.append(f"{plan.world_size} processes -> 1")
    data = {
        **plan.data,
        "train": _sources(material.train),
        "eval": _sources(material.eval) or None,
        "format": "auto",
        "columns": None,
        "group_by": None,
        "stratify_by": None,
        "max_samples": None,
        "max_bad_rows": 0.0,
        "dedupe": "none",
        "leakage": "keep",
        "sample": None,
    }
    patience = plan.monitor.get("early_stopping_patience")  # watched, but a rehearsal goes to its end
    changed = replace(
        plan,
        gpu={**plan.gpu, "name": "cpu", "kind": "cpu"},
        model={**plan.model, "name_or_path": material.model, "init": init}
        | ({} if material.model == plan.model.get("name_or_path") else {"revision": None}),
        data=data,
        quantization=quantization,
        peft=_peft(plan, material, said),
        training=training,
        tracking={"tracker": "none"},
        monitor={
            **plan.monitor,
            "rehearse": True,
            "hang_minutes": 10,
            "early_stopping_patience": patience and patience + STEPS,
        },
        checkpoint={**plan.checkpoint, "keep": 3, "max_loss_minutes": None, "deadline_s": None, "on_commit": None},
        launch={"processes": 1},
        world_size=1,
    )
    return changed, [line for line in said if line]


def _sources(files: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"source": path, "format": kind} for path, kind in files]


def _training(plan: Plan, said: list[str], micro: int) -> dict[str, Any]:
    out = dict(plan.training)
    for name, words in NO_GPU.items():
        if out.get(name) not in (None, False, "", [], {}):
            said.append(words)
        out.pop(name, None)
    optim = str(out.get("optim") or "")
    if optim.startswith("paged_"):
        out["optim"] = optim.removeprefix("paged_")
        said.append(f"optimizer {optim} -> {out['optim']}: paging needs a GPU")
    elif optim in CPU_OPTIMIZERS:
        out["optim"] = CPU_OPTIMIZERS[optim]
        said.append(f"optimizer {optim} -> {out['optim']}: it needs other hardware")
    if out.get("fp16"):
        out["fp16"] = False
    for name, most in (
        ("per_device_train_batch_size", micro),
        ("per_device_eval_batch_size", micro),
        ("gradient_accumulation_steps", ACCUMULATION),
    ):
        out[name] = min(int(out.get(name) or most), most)
    evaluates = str(out.get("eval_strategy") or "no") != "no"
    out |= {
        "use_cpu": True,
        "max_steps": STEPS,
        "num_train_epochs": 1,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": EVERY,
        "dataloader_num_workers": min(int(out.get("dataloader_num_workers") or 0), 1),
        "dataloader_pin_memory": False,
    }
    if not out["dataloader_num_workers"]:
        for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
            out.pop(name, None)
    if evaluates:
        out |= {"eval_strategy": "steps", "eval_steps": EVERY}
        out.pop("eval_delay", None)
    warmup = out.get("warmup_steps")
    if isinstance(warmup, int | float) and warmup >= 1:
        out["warmup_steps"] = 1
    return out


def _peft(plan: Plan, material: Material, said: list[str]) -> dict[str, Any] | None:
    if not plan.peft:
        return None
    out = dict(plan.peft)
    start = str(out.get("init_lora_weights", "")).lower()
    rank = out.get("r")
    if start.startswith("loftq"):
        out["init_lora_weights"] = True
        out.pop("loftq_config", None)
        said.append("init_lora_weights loftq -> the usual start: PEFT rounds on a GPU only")
    elif start.startswith(DECOMPOSES) and isinstance(rank, int) and rank > MOST_RANK:
        alpha = out.get("lora_alpha")
        out["r"] = MOST_RANK
        if isinstance(alpha, int | float):
            out["lora_alpha"] = max(1, round(alpha * MOST_RANK / rank))
        said.append(f"rank {rank} -> {MOST_RANK}: the small weights have no more")
    if out.get("layer_replication"):
        out.pop("layer_replication")
        said.append("layer_replication is left out: it counts the full model's layers")
    if not material.depth or len(material.layers) >= material.depth:
        return out
    number = {full: small for small, full in enumerate(material.layers)}
    layers = out.get("layers_to_transform")
    if isinstance(layers, int):
        layers = [layers]
    if isinstance(layers, list):
        out["layers_to_transform"] = [number[i] for i in layers if i in number]
    if _names_layers(out.get("target_modules")) and material.targets:
        names = [_renumbered(name, number) for name in material.targets]
        out["target_modules"] = sorted({name for name in names if name})
        out.pop("layers_to_transform", None)
        out.pop("layers_pattern", None)
    saved = out.get("modules_to_save")
    if isinstance(saved, list) and _names_layers(saved):
        out["modules_to_save"] = [n for n in (_renumbered(str(s), number) for s in saved) if n] or None
    return out


def _names_layers(targets: Any) -> bool:
    """Whether target modules may name layers by their numbers: a pattern, or a name with a number in it."""
    if isinstance(targets, str):
        return targets != "all-linear"
    return isinstance(targets, list) and any(LAYER.search(str(name)) for name in targets)


def _renumbered(name: str, number: Mapping[int, int]) -> str:
    """A module's name in the small model; empty where its layer is not there."""
    found = LAYER.search(name)
    if not found:
        return name
    if int(found[0]) not in number:
        return ""
    return f"{name[: found.start()]}{number[int(found[0])]}{name[found.end() :]}"
