"""The model of a plan, built in full but without one real weight: configuration, quantisation, PEFT, the types TRL gives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch import nn

from nothing_tune.data.hub import hub_problem, words
from nothing_tune.engine import build, configs
from nothing_tune.engine.rehearse import causes
from nothing_tune.engine.simulate.kernels import EightBit
from nothing_tune.engine.train import cast_trainable
from nothing_tune.errors import PlanError, Problem, UsageError
from nothing_tune.plan.model import Plan

NF4_BLOCK = 64
"""Weights that share a scale (bitsandbytes 0.50, `Params4bit.blocksize`; QLoRA, arXiv 2305.14314)."""
SCALES_BLOCK = 256
"""Scales that share a scale of their own with double quantisation (bitsandbytes 0.50, `quantize_4bit`)."""


def config_of(plan: Plan, given: Mapping[str, Any] | None) -> tuple[Any, int]:
    """The language model's configuration: of `given` (a config.json), else of the plan's model; and bytes of weights beside it.

    Raises:
        UsageError: transformers does not know the architecture, it needs code of its own, or it cannot be had.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    name = str(plan.model.get("name_or_path"))
    if given is None:
        name = build.model_name(plan)
        try:
            given = AutoConfig.from_pretrained(name, revision=str(plan.model.get("revision") or "main")).to_dict()
        except Exception as error:
            raise UsageError(configs.trouble(plan, name) or hub_problem(error, name, "model.name_or_path")) from error
    kind = str(given.get("model_type") or "")
    if kind not in CONFIG_MAPPING:
        if given.get("auto_map"):
            raise UsageError(
                Problem(
                    f"the model's architecture {kind or '(unnamed)'} comes as code of its own, which is not run for a simulation",
                    key="model.trust_remote_code",
                    hint="choose a model whose architecture is part of transformers",
                )
            )
        raise UsageError(configs.unknown(name, kind))
    try:
        config = CONFIG_MAPPING[kind].from_dict(dict(given))
    except Exception as error:
        raise UsageError(configs.refused(name, error)) from error
    try:
        return _language(config)
    except Exception as error:
        if isinstance(error, UsageError):
            raise
        raise _unbuildable(kind, error) from error


def _unbuildable(kind: str, error: Exception) -> UsageError:
    return UsageError(
        Problem(
            f"transformers cannot build a {kind} model from this config: {words(error)}",
            key="model.name_or_path",
            hint="check the model's config.json",
        )
    )


def _language(config: Any) -> tuple[Any, int]:
    """The part of `config` that is a causal language model, and the bytes of weights (16 bit) beside it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    text = config.get_text_config()
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        if text is config or not sees:
            return text, 0
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        with torch.device("meta"), _without_values(True):
            sizes = []
            for kind, of in ((AutoModelForImageTextToText, config), (AutoModelForCausalLM, text)):
                made = kind.from_config(of)
                made.tie_weights()
                sizes.append(2 * sum(p.numel() for p in made.parameters()))
        return text, max(0, sizes[0] - sizes[1])
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or sees:
        return config, 0
    raise UsageError(
        Problem(
            f"the architecture {config.model_type!r} is no causal language model",
            key="model.name_or_path",
            hint="choose a model that generates text",
        )
    )


def base(plan: Plan, config: Any, mode: Any) -> Any:
    """The base model with the plan's type, attention and quantisation.

    Args:
        mode: FakeTensorMode in which its weights pretend to be; None makes real ones, random.
    """
    dtype = getattr(torch, str((plan.model.get("init") or {}).get("dtype") or "float32"))
    quantization = _quantization(plan, config)
    attention = _attention(plan)
    with torch.device("cpu" if mode is None else "meta"), _without_values(mode is not None):
        model = _from_config(config, dtype, attention)
        model.tie_weights()
        if quantization is not None:
            _quantise(model, quantization, dtype)
    if mode is not None:
        with mode:
            _pretend(model, dtype)
    model.config.use_cache = False
    return model


def _from_config(config: Any, dtype: torch.dtype, attention: str | None) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText
    wanted = {} if attention is None else {"attn_implementation": attention}
    try:
        return kind.from_config(config, dtype=dtype, **wanted)
    except Exception as error:
        if attention and "attention" in str(error).lower():
            raise _attention_refused(config, attention) from error
        raise _unbuildable(config.model_type, error) from error


def _attention_refused(config: Any, attention: str) -> PlanError:
    return PlanError(
        Problem(
            f"the architecture {config.model_type!r} does not run with attn_implementation {attention}",
            key="model.attn_implementation",
            hint="set model.attn_implementation=eager",
        )
    )


def _attention(plan: Plan) -> str | None:
    """`sdpa` or `eager`; None leaves it to transformers. FlashAttention allocates what sdpa's flash kernel does."""
    wanted = str((plan.model.get("init") or {}).get("attn_implementation") or "auto")
    if wanted == "auto":
        return None
    return "sdpa" if flash_package(plan) else wanted


def flash_package(plan: Plan) -> bool:
    """Whether the plan asks for the FlashAttention package, which needs no mask."""
    return "flash" in str((plan.model.get("init") or {}).get("attn_implementation") or "")


def _quantization(plan: Plan, config: Any) -> dict[str, Any] | None:
    """What the base is quantised to: by the plan, or as it lies on the hub."""
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        del config.quantization_config
        stored = stored if isinstance(stored, dict) else stored.to_dict()
        method = str(stored.get("quant_method") or "")
        if method not in ("bitsandbytes", ""):
            raise PlanError(
                Problem(
                    f"the model is stored quantised by {method}, which is not simulated",
                    key="model.name_or_path",
                    hint="name the model that it was made from",
                )
            )
        return plan.quantization or {k: v for k, v in stored.items() if not k.startswith("_") and k != "quant_method"}
    return plan.quantization


def _quantise(model: Any, settings: dict[str, Any], dtype: torch.dtype) -> None:
    """Puts bitsandbytes' layers where transformers would, without weights."""
    from transformers import BitsAndBytesConfig
    from transformers.quantizers.auto import AutoHfQuantizer

    config = BitsAndBytesConfig(**settings)
    if not (config.load_in_4bit or config.load_in_8bit):
        return
    quantizer = AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(model=model, dtype=dtype, device_map=None)
    quantizer.postprocess_model(model)


@contextlib.contextmanager
def _without_values(yes: bool) -> Iterator[None]:
    if not yes:
        yield
        return
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


def _pretend(model: Any, dtype: torch.dtype) -> None:
    """Gives every module fake weights of the shapes and types that it would have on a GPU; shared ones stay shared."""
    import bitsandbytes as bnb

    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        four, eight = isinstance(module, bnb.nn.Linear4bit), isinstance(module, bnb.nn.Linear8bitLt)
        for name, parameter in list(module._parameters.items()):
            if parameter is None:
                continue
            if name == "weight" and (four or eight):
                module._parameters[name] = (
                    _four_bit(module, parameter, dtype) if four else _eight_bit(module, parameter)
                )
                continue
            if id(parameter) not in made:
                values = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                made[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")


def _four_bit(module: Any, parameter: Any, dtype: torch.dtype) -> nn.Parameter:
    """A packed weight with its scales, as `Params4bit` holds them on a GPU."""
    from bitsandbytes.functional import QuantState

    count = module.out_features * module.in_features
    blocks = -(-count // NF4_BLOCK)
    width = torch.empty(0, dtype=parameter.quant_storage).element_size()
    packed = nn.Parameter(
        torch.empty((-(-count // (2 * width)), 1), dtype=parameter.quant_storage), requires_grad=False
    )
    more: dict[str, Any] = {"absmax": torch.empty(blocks, dtype=torch.float32)}
    if parameter.compress_statistics:
        second = QuantState(
            absmax=torch.empty(-(-blocks // SCALES_BLOCK)),
            blocksize=SCALES_BLOCK,
            code=torch.empty(256),
            dtype=torch.float32,
        )
        more = {"absmax": torch.empty(blocks, dtype=torch.uint8), "offset": torch.empty(()), "state2": second}
    state = QuantState(
        shape=torch.Size((module.out_features, module.in_features)), code=torch.empty(16), blocksize=NF4_BLOCK,
        quant_type=parameter.quant_type, dtype=dtype, **more,
    )  # fmt: skip
    packed.__class__ = _named("Params4bit", type(packed))
    packed.quant_state = module.quant_state = state
    packed.quant_type, packed.compress_statistics = parameter.quant_type, parameter.compress_statistics
    packed.quant_storage, packed.blocksize, packed.bnb_quantized = parameter.quant_storage, NF4_BLOCK, True
    module.support_avx512bf16_for_cpu = False
    return packed


def _eight_bit(module: Any, parameter: Any) -> nn.Parameter:
    """An int8 weight with one scale a row, as `Int8Params` holds them on a GPU."""
    packed = nn.Parameter(torch.empty(parameter.shape, dtype=torch.int8), requires_grad=False)
    packed.__class__ = _named("Int8Params", type(packed))
    packed.has_fp16_weights = False
    packed.CB, packed.SCB = packed.data, torch.empty(module.out_features)
    module.state.CB, module.state.SCB, module.state.has_fp16_weights = packed.data, packed.SCB, False

    def forward(rows: torch.Tensor) -> torch.Tensor:
        """What `Linear8bitLt` makes on a GPU; which columns are outliers depends on values, and they are few."""
        out: torch.Tensor = EightBit.apply(rows, packed.data, packed.SCB)
        return out

    module.forward = forward
    return packed


_KINDS: dict[tuple[str, type], type] = {}


def _named(name: str, parent: type) -> type:
    """`parent` under the class name by which PEFT knows a quantised weight; such a tensor itself cannot be fake."""
    return _KINDS.setdefault((name, parent), type(name, (parent,), {}))


def parameter_bytes(model: Any) -> dict[str, list[torch.Tensor]]:
    """Tensors of `weights` (frozen ones, scales and buffers included) and `adapters` (trained ones beside the base)."""
    weights: list[torch.Tensor] = []
    adapters: list[torch.Tensor] = []
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            (adapters if parameter.requires_grad and getattr(model, "peft_config", None) else weights).append(parameter)
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                weights += [
                    t
                    for s in (state, state.state2)
                    if s is not None
                    for t in (s.absmax, s.code, s.offset)
                    if t is not None
                ]
            if getattr(parameter, "SCB", None) is not None:
                weights.append(parameter.SCB)
        weights += [b for b in module._buffers.values() if b is not None]
    return {"weights": weights, "adapters": adapters}


def wrapped(plan: Plan, model: Any, args: Any) -> Any:
    """The model as SFTTrainer makes it: PEFT around it, the trained weights' types, checkpointing.

    Raises:
        UsageError: The adapter's targets are not in the model.
        PlanError: PEFT refuses the model or the settings.
    """
    settings = build.peft_config(plan)
    if settings is None and getattr(model, "is_quantized", False):
        raise PlanError("nothing of a quantised model can be trained", hint="set peft, or quantization to null")
    if settings is not None:
        model = _adapted(model, settings)
        if args.activation_checkpointing:
            model.enable_input_require_grads()
        if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "lora_magnitude_vector" not in name:
                    parameter.data = parameter.data.to(torch.bfloat16)
    cast_trainable(model, plan.trainable_dtype)
    if args.activation_checkpointing:
        kwargs = dict(args.activation_checkpointing_kwargs or {})
        kwargs.pop("selective", None)
        every = int(kwargs.pop("every_n_layers", 1))
        kwargs.pop("offload", None)
        try:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs or None, every_n_layers=every)
        except ValueError as error:
            raise PlanError(Problem(str(error), key="training.activation_checkpointing")) from error
    model.train()
    return model


def _moved(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply` for fake weights, which torch's own cannot swap."""
    for child in self.children() if recurse else ():
        _moved(child, fn)
    for parameter in self._parameters.values():
        if parameter is not None:
            parameter.data = fn(parameter.data)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self


def _adapted(model: Any, settings: Any) -> Any:
    from peft import get_peft_model

    if isinstance(getattr(settings, "init_lora_weights", None), str):
        settings.init_lora_weights = True  # the start values cost nothing afterwards
    try:
        with mock.patch.object(nn.Module, "_apply", _moved):
            return get_peft_model(model, settings)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        said = str(error)
        if "not found" not in said and "No modules were targeted" not in said:
            wrong = Problem(f"PEFT refuses this model or these settings: {words(error).rstrip('.')}")
            raise PlanError(causes.cured(wrong, "adapter")) from error
        there = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        asked = settings.target_modules
        named = ", ".join(sorted(asked)) if isinstance(asked, set | list) else str(asked)
        raise UsageError(
            Problem(
                f"peft.target_modules {named} matches nothing in the model",
                key="peft.target_modules",
                hint=f"linear layers there are: {', '.join(there)}",
            )
        ) from error
