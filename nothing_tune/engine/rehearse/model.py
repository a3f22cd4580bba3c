"""The model of a rehearsal: the recipe's architecture looked at in full size without weights, and made small with random ones."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers

from nothing_tune.data.hub import hub_problem, words
from nothing_tune.engine import build, configs
from nothing_tune.engine.rehearse import architecture
from nothing_tune.errors import Problem, RunError, UsageError
from nothing_tune.plan.model import Plan

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5", ".onnx", ".ckpt", ".npz")
AS_IT_IS_BYTES = 48 * 2**20
"""A model in a folder whose weights take no more is rehearsed as it is."""
MOST_PARAMETERS = 400_000_000
"""Parameters that a model of full width and few layers may have, where its widths cannot be made small."""
LONGEST = 8192
"""Tokens of the longest sequence that is passed through the small model."""
SEED = 0
SHOWN = 12
KEY = "model.name_or_path"


def config_of(plan: Plan, given: Mapping[str, Any] | None) -> Any:
    """The model's config: that of its folder or of the hub, else made of `given` (config.json as a mapping).

    Raises:
        UsageError: There is none, the installed transformers does not know it, or it names no class.
    """
    name = build.model_name(plan)
    try:
        try:
            config = transformers.AutoConfig.from_pretrained(
                name,
                revision=str(plan.model.get("revision") or "main"),
                trust_remote_code=bool(plan.model.get("trust_remote_code")),
            )
        except OSError:  # not on the hub for us, and not in its cache
            if given is None:
                raise
            values = {k: v for k, v in given.items() if k != "model_type"}
            config = transformers.AutoConfig.for_model(str(given.get("model_type")), **values)
    except Exception as error:
        if wrong := configs.trouble(plan, name, given):
            raise UsageError(wrong) from error
        raise build._absent(plan, hub_problem(error, name, KEY)) from error
    if not config.architectures:
        raise UsageError(
            Problem(
                f"config.json of {name} names no class in `architectures`", key=KEY, hint="download the model again"
            )
        )
    return config


def as_it_is(plan: Plan) -> int | None:
    """Bytes of the model's weights where it is small enough to be rehearsed as it is, in its folder; else None."""
    folder = Path(str(plan.model.get("name_or_path"))).expanduser()
    if not folder.is_dir():
        return None
    weights = sum(p.stat().st_size for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    return weights if 0 < weights <= AS_IT_IS_BYTES else None


def full_size(plan: Plan, config: Any) -> dict[str, Any]:
    """What the adapter takes on the full-size model, which is built without weights.

    Returns:
        `class`, `layers`, `parameters`, `trainable` (None where PEFT cannot tell without weights), `targets` (module names),
        `modules` (how many).

    Raises:
        UsageError: The adapter's settings name modules or layers that the model has not.
        PlanError: PEFT refuses them.
    """
    try:
        with torch.device("meta"):
            base = _build(plan, config)
    except Exception as error:
        raise UsageError(
            Problem(f"{config.architectures[0]} cannot be built: {words(error)}", key=KEY, hint="mend config.json")
        ) from error
    text = config.get_text_config()
    out: dict[str, Any] = {
        "class": type(base).__name__,
        "layers": int(getattr(text, "num_hidden_layers", 0) or 0),
        "parameters": sum(p.numel() for p in base.parameters()),
        "targets": [],
        "trainable": None,
        "modules": 0,
    }
    if not plan.peft:
        return {**out, "trainable": out["parameters"]}
    settings = build.peft_config(plan)
    _names_are_there(plan, base, out["class"])
    if str(getattr(settings, "init_lora_weights", "")).lower() not in ("true", "false", "none", "", "gaussian"):
        settings.init_lora_weights = True
        settings.loftq_config = {}
    import peft

    try:
        wrapped = peft.get_peft_model(base, settings)
    except ValueError as error:
        if "target modules" in str(error).lower():
            raise UsageError(_no_targets(plan, base, out["class"])) from error
        return out  # what PEFT cannot do without weights is seen on the small model
    except Exception:
        return out
    out["targets"] = list(getattr(wrapped.base_model, "targeted_module_names", []))
    out["modules"] = len(out["targets"])
    out["trainable"] = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    return out


def vocabulary_of(config: Any) -> int:
    """Tokens that the model knows; 0 where its config does not say."""
    return int(getattr(config.get_text_config(), "vocab_size", 0) or 0)


def small(plan: Plan, config: Any, folder: Path, tokenizer: Any, length: int) -> dict[str, Any]:
    """Writes the model, made small, with random weights, and the real tokenizer into `folder`.

    A sequence of `length` tokens, the longest that the training sees, must pass through it.

    Returns:
        `class`, `layers` (those of the full model that it stands for), `depth`, `parameters`, `hidden`, `before` (the full
        hidden size), `vocabulary`, `quantization` (what the checkpoint brings, None for none).

    Raises:
        UsageError: The model has no positions for `length` tokens.
        RunError: The architecture cannot be made small here.
        StorageError: The disk refuses.
    """
    values = config.to_dict()
    asked = (plan.peft or {}).get("layers_to_transform")
    wanted = [asked] if isinstance(asked, int) else [i for i in asked or [] if isinstance(i, int)]
    tried: list[str] = []
    for widths in (True, False):
        made = architecture.shrink(values, wanted, widths)
        try:
            narrow = type(config).from_dict(made.config)
            with torch.device("meta"):
                count = sum(p.numel() for p in _build(plan, narrow).parameters())
            if count > MOST_PARAMETERS:
                tried.append(f"two layers of it are {count / 1e6:,.0f} million parameters")
                continue
            model = _random(plan, narrow)
            _try(model, 8)
        except Exception as error:
            tried.append(words(error))
            continue
        break
    else:
        raise RunError(
            f"{config.architectures[0]} cannot be made small enough for a rehearsal here: {tried[0]}",
            hint="tune train RECIPE --rehearse --with models/nano rehearses the recipe with the model that ships",
        )
    try:
        _try(model, min(length, LONGEST))
    except (IndexError, RuntimeError, ValueError) as error:
        context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)
        raise UsageError(
            Problem(
                f"a sequence of {length:,} tokens does not pass through {config.architectures[0]}: {words(error)}",
                key="training.max_length",
                hint=f"set training.max_length={context}, the positions that it has"
                if 0 < context < length
                else "lower training.max_length",
            )
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _bring(plan, folder, tokenizer)
    text, before = narrow.get_text_config(), config.get_text_config()
    brought = values.get("quantization_config")
    return {
        "class": type(model).__name__,
        "layers": list(made.layers),
        "depth": made.depth,
        "parameters": count,
        "hidden": int(getattr(text, "hidden_size", 0) or 0),
        "before": int(getattr(before, "hidden_size", 0) or 0),
        "vocabulary": vocabulary_of(config),
        "quantization": _bitsandbytes(brought),
        "quantized_by": (brought or {}).get("quant_method"),
    }


def _random(plan: Plan, narrow: Any) -> Any:
    torch.manual_seed(SEED)
    dtype = {"bfloat16": torch.bfloat16}.get(str((plan.model.get("init") or {}).get("dtype")), torch.float32)
    return _build(plan, narrow, dtype=dtype)


def _try(model: Any, length: int) -> None:
    """One forward pass of `length` tokens: what cannot do that was not made small rightly."""
    model.eval()
    ids = (torch.arange(length) % max(vocabulary_of(model.config) - 1, 1))[None]
    last = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False, **last).logits
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the small model's answers are not finite")


def _build(plan: Plan, config: Any, **options: Any) -> Any:
    """The class that a training loads, as TRL chooses it, without weights of its own."""
    found = getattr(transformers, config.architectures[0], None)
    if found is not None:
        return found._from_config(config, **options)
    remote = bool(plan.model.get("trust_remote_code"))
    return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=remote, **options)


def _bring(plan: Plan, folder: Path, tokenizer: Any) -> None:
    """The model's files that are no weights, its tokenizer among them, as they are; from the hub the tokenizer alone."""
    source = Path(str(plan.model.get("name_or_path"))).expanduser()
    if not source.is_dir():
        tokenizer.save_pretrained(folder)
        return
    for path in source.iterdir():
        ours = path.name in ("config.json", "README.md") or path.name.endswith(".index.json")
        if path.is_file() and path.suffix not in WEIGHTS and not ours:
            shutil.copy2(path, folder / path.name)


def _bitsandbytes(brought: Any) -> dict[str, Any] | None:
    """BitsAndBytesConfig's own words for a checkpoint that is quantised already."""
    if not isinstance(brought, Mapping) or str(brought.get("quant_method")) not in (
        "bitsandbytes",
        "QuantizationMethod.BITS_AND_BYTES",
    ):
        return None
    return {k: v for k, v in brought.items() if k.startswith(("load_in_", "bnb_", "llm_int8_")) and v is not None}


def _names_are_there(plan: Plan, base: Any, kind: str) -> None:
    """`UsageError` for target modules, modules to save and layers of the adapter that the model has not; all at once."""
    settings = plan.peft or {}
    names = [n for n, _ in base.named_modules() if n]
    problems = []
    for key in ("target_modules", "modules_to_save", "feedforward_modules"):
        given = settings.get(key)
        if not isinstance(given, list):
            continue
        absent = [str(g) for g in given if not any(n == g or n.endswith(f".{g}") for n in names)]
        if absent and key == "target_modules" and len(absent) == len(given):
            problems.append(_no_targets(plan, base, kind))
        elif absent:
            linear = sorted({n.rsplit(".", 1)[-1] for n in (_linear(base) if key != "modules_to_save" else names)})
            near = [m for a in absent if (m := next(iter(get_close_matches(a, linear, n=1, cutoff=0.6)), ""))]
            it = "it" if len(absent) == 1 else "them"
            cure = f"did you mean {', '.join(near)}?" if near else f"{kind} has {_listed(linear)}; take {it} out"
            what = f"peft.{key} names {', '.join(absent)}, which {kind} has not"
            problems.append(Problem(what, key=f"peft.{key}", hint=cure))
    depth = int(getattr(base.config.get_text_config(), "num_hidden_layers", 0) or 0)
    layers = settings.get("layers_to_transform")
    beyond = [
        i for i in ([layers] if isinstance(layers, int) else layers or []) if isinstance(i, int) and not 0 <= i < depth
    ]
    if depth and beyond:
        problems.append(
            Problem(
                f"peft.layers_to_transform names layer {', '.join(map(str, beyond))}, and the model has {depth} (0 to {depth - 1})",
                key="peft.layers_to_transform",
                hint=f"layers count from 0; name some from 0 to {depth - 1}, or leave it out for all",
            )
        )
    if problems:
        raise UsageError(*problems)


def _no_targets(plan: Plan, base: Any, kind: str) -> Problem:
    given = (plan.peft or {}).get("target_modules")
    told = ", ".join(map(str, given)) if isinstance(given, list) else str(given)
    linear = sorted({n.rsplit(".", 1)[-1] for n in _linear(base)})
    return Problem(
        f"peft.target_modules names {told}, and {kind} has no such module",
        key="peft.target_modules",
        hint=f"it has {_listed(linear)}; or all-linear, which takes all of them",
    )


def _linear(base: Any) -> list[str]:
    """Names of the layers that an adapter usually takes: all with a weight matrix but embeddings and the output layer."""
    head = base.get_output_embeddings()
    return [
        n for n, m in base.named_modules()
        if m is not head and (isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D")
    ]  # fmt: skip


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
