"""Builds the objects that train from a plan: tokenizer, model, PEFT config, SFTConfig.

Everything is built the way `SFTTrainer` does when it is given the same arguments, so that a hand-written TRL script
gives the same numbers to the last bit: the model is loaded first and the trainer, which sets the seed, wraps it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nothing_tune.data.hub import hub_problem
from nothing_tune.engine import configs
from nothing_tune.errors import PlanError, Problem, RunError, UsageError
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rehearsal import rehearsable

NEEDS_DATA = ("corda", "eva", "lora_ga")
"""LoRA initialisations that PEFT computes from batches of data beforehand; without that step it trains something else."""
MOVES_BASE = ("pissa", "olora")
"""LoRA initialisations that subtract what they start from from the base weights."""


def tokenizer(plan: Plan) -> Any:
    """The model's tokenizer.

    Raises:
        UsageError: The model is not there, its folder holds no tokenizer or an empty one, or its config cannot be used.
    """
    from transformers import AutoTokenizer

    name = model_name(plan)
    folder = Path(name)
    if folder.is_dir() and (lacking := configs.no_tokenizer(folder)):
        raise UsageError(configs.trouble(plan, name) or lacking)
    try:
        found = AutoTokenizer.from_pretrained(
            name, revision=_revision(plan), trust_remote_code=bool(plan.model.get("trust_remote_code"))
        )
    except Exception as error:
        if wrong := configs.trouble(plan, name) or configs.half_tokenizer(name):
            raise UsageError(wrong) from error
        kind = "the tokenizer of" if folder.is_dir() else "model"
        raise _absent(plan, hub_problem(error, name, "model.name_or_path", kind)) from error
    if wrong := configs.empty_tokenizer(name, found):
        raise UsageError(wrong)
    return found


def model_name(plan: Plan) -> str:
    """The folder or hub id of the base model. `UsageError` when it reads like a path and nothing is there."""
    name = str(plan.model.get("name_or_path") or "")
    if not name:
        raise UsageError(Problem("no model is named", key="model.name_or_path", hint="set it to a folder or a hub id"))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                Problem(
                    f"{path.absolute()} holds no model: it has no config.json",
                    key="model.name_or_path",
                    hint="name a folder that holds a model",
                )
            )
        configs.check_json(path)
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise _absent(
            plan,
            Problem(
                f"there is no model at {name}: looked for {path.absolute()}",
                key="model.name_or_path",
                hint="name a folder that exists or a hub id",
            ),
        )
    return name


def _absent(plan: Plan, problem: Problem) -> UsageError:
    """A model that cannot be had; where the recipe brings a sample, the hint offers the model that ships."""
    if not rehearsable(plan.values):
        return UsageError(problem)
    return UsageError(
        replace(problem, hint=f"{problem.hint}; or add --with models/nano to rehearse the recipe without it")
    )


def model(plan: Plan) -> Any:
    """The base model, loaded with the plan's dtype, which is checked, and quantised as the plan says."""
    from trl.trainer.utils import create_model_from_path

    name = model_name(plan)
    kwargs: dict[str, Any] = {
        k: v
        for k, v in (plan.model.get("init") or {}).items()
        if v is not None and (k, v) != ("attn_implementation", "auto")
    }
    dtype = getattr(torch, str(kwargs.pop("dtype", None) or ""), None)
    if not isinstance(dtype, torch.dtype):
        raise PlanError(
            f"the plan names no dtype for the model: {plan.model.get('init')}", hint="this is a bug of the plan"
        )
    cuda = torch.cuda.is_available() and not plan.training.get("use_cpu")
    kwargs |= {
        "dtype": dtype,
        "revision": _revision(plan),
        "trust_remote_code": bool(plan.model.get("trust_remote_code")),
        "device_map": {"": 0} if cuda else None,
    }
    if plan.quantization:
        from transformers import BitsAndBytesConfig

        if not cuda:
            exact_4bit_on_cpu()
        kwargs["quantization_config"] = BitsAndBytesConfig(**plan.quantization)
    try:
        loaded = create_model_from_path(name, **kwargs)
    except (OSError, ConnectionError) as error:
        raise _absent(plan, hub_problem(error, name, "model.name_or_path")) from error
    except Exception as error:
        if wrong := configs.trouble(plan, name):
            raise UsageError(wrong) from error
        raise
    got = loaded.get_input_embeddings().weight.dtype
    if got != dtype:
        raise RunError(f"the model was to be loaded as {dtype} but came as {got}")
    return loaded


def exact_4bit_on_cpu() -> None:
    """Stops bitsandbytes 0.50 from repacking 4-bit weights in place when a CPU evaluates, which changes the training after it.

    Call it before a 4-bit model is loaded. It touches CPUs with AVX512-BF16 only; others never repack.
    """
    import bitsandbytes.nn.modules as modules

    modules.has_avx512bf16 = lambda: False


def peft_config(plan: Plan) -> Any:
    """The PEFT config, None for full fine-tuning. `PlanError` for what cannot be trained or handed over rightly."""
    if not plan.peft:
        return None
    import peft

    settings = dict(plan.peft)
    kind = str(settings.get("peft_type", "")).upper()
    start = str(settings.get("init_lora_weights", "")).lower()
    if start.split("_niter")[0] in NEEDS_DATA:
        raise PlanError(
            Problem(
                f"init_lora_weights {start!r} needs PEFT's own preparation on batches of data, which is not done here",
                key="peft.init_lora_weights",
                hint="use pissa, olora, loftq or true",
            )
        )
    if plan.quantization and (start.startswith((*MOVES_BASE, "loftq"))):
        raise PlanError(
            Problem(
                f"init_lora_weights {start!r} rewrites the base weights, which cannot be undone on a quantised base",
                key="peft.init_lora_weights",
                hint="set quantization to null, or init_lora_weights to true",
            )
        )
    if start.startswith((*MOVES_BASE, "loftq")) and settings.get("use_dora"):
        raise PlanError(
            Problem(
                f"init_lora_weights {start!r} with use_dora cannot be handed over: DoRA's magnitudes belong to the rewritten base",
                key="peft.init_lora_weights",
                hint="use one or the other",
            )
        )
    try:
        return peft.get_peft_config({**settings, "peft_type": kind})
    except KeyError:
        raise PlanError(Problem(f"PEFT has no method {kind!r}", key="peft.peft_type")) from None
    except ImportError as error:
        raise PlanError(
            Problem(
                f"this PEFT method needs a package that is not installed: {error}",
                key="peft",
                hint="pip install the package it names",
            )
        ) from error
    except (TypeError, ValueError) as error:
        raise PlanError(Problem(f"PEFT refuses these settings: {error}", key="peft")) from error


PREPARED = {
    "dataset_kwargs": {"skip_prepare_dataset": True},
    "assistant_only_loss": False,
    "completion_only_loss": False,
}
"""What the Trainer is told of rows that come as tokens and labels, see `prepare`."""


def sft_config(plan: Plan, output_dir: Path) -> Any:
    """SFTConfig of the plan's training arguments, for rows that are prepared already."""
    from trl import SFTConfig

    settings = {**plan.training, **PREPARED}
    try:
        return SFTConfig(**settings, output_dir=str(output_dir))
    except (TypeError, ValueError) as error:
        raise PlanError(
            Problem(f"the training arguments do not fit this machine or each other: {error}", key="training")
        ) from error


def add_tokens(base: Any, tok: Any, config: Any, added: tuple[str, ...]) -> None:
    """Makes room for `added` tokens, starts them at the mean of the others, and has PEFT train and save their rows.

    Args:
        base: The loaded model; its embeddings (and head) grow to the tokenizer's length.
        config: The PEFT config, changed in place; None for full fine-tuning, which trains everything anyway.
    """
    if not added:
        return
    grow(base, tok)
    ids = tok.convert_tokens_to_ids(list(added))
    eos = base.generation_config.eos_token_id if base.generation_config else None
    known = [eos] if isinstance(eos, int) else list(eos or [])
    base.generation_config.eos_token_id = [tok.eos_token_id, *[i for i in known if i != tok.eos_token_id]]
    if config is None:
        return
    names = [n for n, m in base.named_modules() if m is base.get_input_embeddings()]
    heads = [n for n, m in base.named_modules() if m is base.get_output_embeddings()]
    leaves = [names[0].rsplit(".", 1)[-1]]
    if not base.config.get_text_config().tie_word_embeddings:
        leaves.append(heads[0].rsplit(".", 1)[-1])
    if hasattr(config, "trainable_token_indices"):
        have = config.trainable_token_indices or {}
        if isinstance(have, list):
            have = {leaves[0]: have}
        config.trainable_token_indices = {**have, **{leaf: sorted({*have.get(leaf, []), *ids}) for leaf in leaves}}
    else:
        config.modules_to_save = sorted({*(config.modules_to_save or []), *leaves})


def grow(base: Any, tok: Any) -> None:
    """Resizes the embeddings of `base` to hold every token of `tok`; new rows are the mean of the old ones, without chance."""
    embedding = base.get_input_embeddings().weight
    old = embedding.shape[0]
    if len(tok) <= old:
        return
    base.resize_token_embeddings(len(tok), mean_resizing=False)
    with torch.no_grad():
        weights = {
            id(m.weight): m.weight for m in (base.get_input_embeddings(), base.get_output_embeddings()) if m is not None
        }
        for weight in weights.values():
            weight[old:] = weight[:old].float().mean(dim=0).to(weight.dtype)


def _revision(plan: Plan) -> str:
    return str(plan.model.get("revision") or "main")
