"""Merges an adapter into the base module by module, with PEFT's own arithmetic, while the rest of the model has no memory.

The model is built without storage (torch's meta device) and PEFT puts its layers into it, so that every method that PEFT can
merge works, with its rank patterns, layer choices and saved modules. Then one module at a time gets its base weights in
float32, PEFT merges them, the result is rounded once to the type that is stored, and the memory is given back.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from nothing_tune.artifacts import read_json
from nothing_tune.data.hub import words
from nothing_tune.engine.export import tensors
from nothing_tune.engine.export.source import Base
from nothing_tune.engine.fingerprints import SAMPLE
from nothing_tune.errors import ProofFailed, UsageError

_ROOT = "base_model.model."
_ADAPTER = "default"
_ALONE = "the adapter alone can be exported"


class Names:
    """Which stored tensor is which weight of the model. Most are one for one; experts may be stored one by one.

    Attributes:
        weight: Name of the model's weight for each stored tensor.
        stored: The stored tensors that a weight is made of.
        converted: Weights that are stored in another arrangement.
    """

    def __init__(self, model: Any, base: Base, headers: dict[str, dict[str, tensors.Entry]]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        self._model, self._base, self._headers = model, base, headers
        rules = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        self._state = dict(model.state_dict())
        self._prefix, self._rename = model.base_model_prefix, rename_source_key
        self.weight: dict[str, str] = {}
        self.stored: dict[str, list[str]] = {}
        self._pattern: dict[str, str] = {}
        for name in base.files:
            weight, pattern = self._of(name)
            self.weight[name] = weight
            self.stored.setdefault(weight, []).append(name)
            if pattern is not None:
                self._pattern[name] = pattern
        self.converted = {self.weight[name] for name in self._pattern}

    def _of(self, name: str) -> tuple[str, str | None]:
        return self._rename(name, self._renamings, self._converters, self._prefix, self._state)

    def spelled(self, weight: str) -> str | None:
        """The name under which a weight would be stored that is not yet; None where that cannot be told."""
        for name in (weight, weight.removeprefix(f"{self._prefix}.")):
            if self._of(name) == (weight, None):
                return name
        return None

    def entry(self, name: str) -> tensors.Entry:
        """Where a stored tensor lies."""
        return self._headers[self._base.files[name]][name]

    def path(self, name: str) -> Path:
        """The file of a stored tensor."""
        return self._base.folder / self._base.files[name]

    def load(self, weight: str) -> torch.Tensor:
        """A weight as the model has it. `UsageError` where the base has none."""
        names = self.stored.get(weight)
        if not names:
            raise UsageError(
                f"the base model has no weight {weight}, which the adapter changes", hint="is it the base of this run?"
            )
        if weight not in self.converted:
            return tensors.load(self.path(names[0]), self.entry(names[0]))
        rule = copy.deepcopy(next(c for c in self._converters if self._pattern[names[0]] in c.source_patterns))
        for name in names:
            rule.add_tensor(weight, name, self._pattern[name], tensors.load(self.path(name), self.entry(name)))
        made = rule.convert(weight, model=self._model, config=self._model.config)
        found = made[weight]
        result: torch.Tensor = found[0] if isinstance(found, list) else found
        return result

    def back(self, weight: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
        """A weight as it is stored: by the names of the stored tensors."""
        if weight not in self.converted:
            return dict.fromkeys(self.stored.get(weight) or [self.spelled(weight) or weight], value)
        from transformers.core_model_loading import revert_weight_conversion

        made = revert_weight_conversion(self._model, {weight: value})
        if sorted(made) != sorted(self.stored[weight]):
            raise UsageError(
                f"{weight} is stored in pieces that cannot be made again from the merged weight",
                hint="export the adapter alone",
            )
        return dict(made)


@dataclass(frozen=True)
class Skeleton:
    """The model with the adapter in it, the base weights left out.

    Attributes:
        model: The transformers model, PEFT's layers in place of some modules.
        names: Its weights and the stored tensors.
        shapes: Shape of every weight, grown vocabulary included.
        units: Path of the wrapped module for each weight that the adapter changes.
        given: Weights that the adapter's file brings itself, such as biases that were trained.
        tied: Weights that are another one: `{"lm_head.weight": "model.embed_tokens.weight"}`.
        untied: Those of them that are no longer.
        rows: Rows of the embeddings where the vocabulary grew; None where it did not.
    """

    model: Any
    names: Names
    shapes: dict[str, tuple[int, ...]]
    units: dict[str, str]
    given: dict[str, torch.Tensor]
    tied: dict[str, str]
    untied: tuple[str, ...]
    rows: int | None

    def load(self, weight: str) -> torch.Tensor:
        """A weight before the merge, grown where the vocabulary grew."""
        if weight in self.given:
            return self.given[weight]
        origin = self.tied.get(weight, weight)
        value = self.names.load(origin if origin in self.names.stored else weight)
        wanted = self.shapes[weight]
        if tuple(value.shape) == wanted:
            return value
        if self.rows is None or value.shape[1:] != wanted[1:] or value.shape[0] > wanted[0]:
            raise _other_base(f"{weight} is {list(value.shape)} in the base and {list(wanted)} in the model of the run")
        new = wanted[0] - value.shape[0]
        mean = value.float().mean(dim=0, keepdim=True).to(value.dtype) if value.dim() > 1 else value.new_zeros(1)
        return torch.cat([value, mean.expand(new, *value.shape[1:])])

    def merged(self, unit: str) -> dict[str, torch.Tensor]:
        """The weights of a wrapped module after the merge, in float32, by the model's names.

        Raises:
            UsageError: PEFT cannot merge this method.
            ProofFailed: The result is not finite.
        """
        from peft.utils.other import ModulesToSaveWrapper

        wrapper = self.model.get_submodule(unit)
        if isinstance(wrapper, ModulesToSaveWrapper):
            saved = wrapper.modules_to_save[_ADAPTER].state_dict()
            return {f"{unit}.{name}": value for name, value in saved.items()}
        layers, inner = _layers(wrapper)
        before = dict(inner._parameters)
        for name, parameter in before.items():
            if parameter is not None:
                inner._parameters[name] = nn.Parameter(self.load(f"{unit}.{name}").float(), requires_grad=False)
        try:
            for layer in reversed(layers):
                _in_float32(layer)
                with torch.no_grad(), _quiet():
                    layer.merge(adapter_names=[_ADAPTER])
            out = {f"{unit}.{name}": value.data for name, value in inner._parameters.items() if value is not None}
        except Exception as error:
            raise UsageError(
                f"PEFT cannot merge {unit}, a {type(layers[0]).__name__} layer: {words(error)}",
                hint="export the adapter alone",
            ) from error
        finally:
            inner._parameters.update(before)
            for layer in layers:
                layer.merged_adapters.clear()  # else PEFT would pass over it the next time
        bad = [name for name, value in out.items() if not torch.isfinite(value).all()]
        if bad:
            raise ProofFailed(f"{bad[0]} is not finite after the merge", hint="the adapter or the base is damaged")
        return out


def skeleton(
    base: Base, adapter: Path, tokens: int, code: bool, headers: dict[str, dict[str, tensors.Entry]]
) -> Skeleton:
    """The model of `base` with the adapter of the folder `adapter` in it.

    Args:
        tokens: Length of the tokenizer; embeddings that are shorter grow to it.
        code: Whether code that the model brings may run.
        headers: The tensors of each of the base's files.

    Raises:
        UsageError: The adapter belongs to another base, or to a method that cannot be merged.
    """
    from peft import PeftConfig, get_peft_model

    weights = adapter / "adapter_model.safetensors"
    tensors.header(weights)
    with safe_open(weights, framework="pt") as handle:
        loaded = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 the handle is no mapping
    with _quiet():
        _refuse(adapter)
        try:
            settings: Any = PeftConfig.from_pretrained(str(adapter))
        except (ImportError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"PEFT refuses {adapter / 'adapter_config.json'}: {words(error)}") from error
        if settings.is_prompt_learning:
            raise UsageError(f"{settings.peft_type.value} learns a prompt, which no weight can hold", hint=_ALONE)
        settings.inference_mode = True
        model = empty(base, code)
        names = Names(model, base, headers)
        tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
        rows = _grown(model, loaded, tokens)
        if rows is not None:
            model.resize_token_embeddings(rows, mean_resizing=False)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        try:
            wrapped = get_peft_model(model, settings, low_cpu_mem_usage=True)
        except ValueError as error:
            raise _other_base(words(error)) from error
        _fill(wrapped, settings, loaded)
    del loaded
    given = _given(model, shapes)
    units = _units(model, shapes)
    untied = tuple(t for t, s in tied.items() if not _still_tied(model, units.get(t), units.get(s)))
    return Skeleton(model, names, shapes, units, given, tied, untied, rows)


def empty(base: Base, code: bool) -> Any:
    """The model of a base without memory for its weights, as the class that trained it."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base.folder, trust_remote_code=code)
    kind = getattr(transformers, str((config.architectures or [""])[0]), None)
    with torch.device("meta"):
        if kind is None:
            return AutoModelForCausalLM.from_config(config, trust_remote_code=code)
        return kind._from_config(config)


def fingerprint(base: Base, dtype: str, code: bool) -> str | None:
    """`fingerprints.of_model` of the base as a run without quantisation loads it in `dtype`, read from a few numbers of each file.

    None where it cannot be told: weights stored in another arrangement, or some that stay wider than `dtype`.
    """
    headers = {file: tensors.header(base.folder / file) for file in set(base.files.values())}
    with _quiet():
        model = empty(base, code)
    if any(getattr(model, name, None) for name in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")):
        return None
    names = Names(model, base, headers)
    if names.converted:
        return None
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    kind = getattr(torch, dtype)
    digest = hashlib.sha256()
    for weight, value in model.state_dict().items():
        origin = tied.get(weight, weight)
        stored = names.stored.get(origin) or names.stored.get(weight)
        if not stored:
            return None
        entry = names.entry(stored[0])
        some = tensors.sample(names.path(stored[0]), entry, SAMPLE)
        some = some.to(kind) if some.is_floating_point() else some
        digest.update(f"{weight} {tuple(value.shape)} {some.dtype}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes() if some.numel() else b"")
    return digest.hexdigest()


def _refuse(adapter: Path) -> None:
    """Refuses what no merge can hold; read as it is written, for PEFT asks for more packages than that needs."""
    settings = read_json(adapter / "adapter_config.json") or {}
    if str(settings.get("init_lora_weights", "")).lower() == "loftq":
        raise UsageError(
            "a LoftQ adapter belongs to the base as LoftQ quantised it, and nothing else holds those weights",
            hint=_ALONE,
        )
    if settings.get("layer_replication"):
        raise UsageError("layer_replication makes a model of other layers than the base has", hint=_ALONE)


def _grown(model: Any, loaded: dict[str, torch.Tensor], tokens: int) -> int | None:
    """Rows that the embeddings get; None where they stay. Where the adapter brings them whole, as many as it has."""
    embedding = model.get_input_embeddings()
    path = next(name for name, module in model.named_modules() if module is embedding)
    saved = [
        v.shape[0] for n, v in loaded.items() if n in (f"{_ROOT}{path}.weight", f"{_ROOT}{path}.base_layer.weight")
    ]
    rows = saved[0] if saved else tokens
    old = int(embedding.weight.shape[0])
    return int(rows) if rows > old else None


def _fill(wrapped: Any, settings: Any, loaded: dict[str, torch.Tensor]) -> None:
    """Loads the adapter's tensors into PEFT's layers; every one must find its place, and every place its tensor."""
    from peft import set_peft_model_state_dict
    from peft.utils.other import TrainableTokensWrapper

    for path, module in wrapped.named_modules():
        if isinstance(module, TrainableTokensWrapper) and module.token_adapter.tied_adapter:
            # a head that follows the embeddings: PEFT writes its copy where the vocabulary grew, and reads none
            loaded.pop(f"{path}.token_adapter.trainable_tokens_delta", None)
    try:
        with _in_place():
            result = set_peft_model_state_dict(wrapped, loaded, low_cpu_mem_usage=True)
    except RuntimeError as error:
        raise _other_base(words(error)) from error
    except KeyError as error:
        raise _other_base(f"the adapter lacks {error.args[0]}") from error
    if result.unexpected_keys:
        raise _other_base(
            f"there is no place for {len(result.unexpected_keys)} of its tensors, first {result.unexpected_keys[0]}"
        )
    tuner = wrapped.base_model
    missing = [
        name
        for name, value in wrapped.named_parameters()
        if value.is_meta and getattr(tuner, "prefix", "lora_") in name and f".{_ADAPTER}" in name
    ]
    if missing:
        raise _other_base(
            f"the adapter has nothing for {len(missing)} weights that it should change, first {missing[0]}"
        )


def _other_base(why: str) -> UsageError:
    return UsageError(
        f"the adapter does not belong to this base model: {why}",
        hint="is the model that the plan names the one it was then?",
    )


def _given(model: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights of the base that the adapter's file brought, by the model's own names; their places are emptied again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    out = {}
    for path, module in model.named_modules():
        plain = path.replace(".token_adapter.base_layer", "").replace(".original_module", "").replace(".base_layer", "")
        for name, value in module._parameters.items():
            weight = f"{plain}.{name}".lstrip(".")
            if value is None or value.is_meta or weight not in shapes or isinstance(module, BaseTunerLayer):
                continue
            if ".modules_to_save." in path:
                continue
            out[weight] = value.data
            module._parameters[name] = nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False)
    return out


def _units(model: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    paths: list[str] = []
    for path, module in model.named_modules():
        inside = paths and path.startswith(f"{paths[-1]}.")
        if not inside and isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            paths.append(path)
    out: dict[str, str] = {}
    for path in paths:
        out |= dict.fromkeys([name for name in shapes if name.startswith(f"{path}.")], path)
    return out


def _layers(wrapper: Any) -> tuple[list[Any], Any]:
    """PEFT's layers around a module, the outermost first, and the module itself."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers, node = [], wrapper.token_adapter if isinstance(wrapper, AuxiliaryTrainingWrapper) else wrapper
    while hasattr(node, "base_layer"):
        layers.append(node)
        node = node.base_layer
    return layers, node


def _in_float32(layer: Any) -> None:
    """Widens the adapter's own numbers in a layer; those of the module below it are wide already."""
    for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
        if not value.is_meta and not name.startswith("base_layer.") and value.dtype in (torch.bfloat16, torch.float16):
            value.data = value.data.float()
    ranks = getattr(layer, "ranknum", {})  # AdaLoRA's divisor, which PEFT keeps in no file
    if _ADAPTER in ranks and ranks[_ADAPTER].is_meta:
        ranks[_ADAPTER] = nn.Parameter(torch.tensor(float(layer.r[_ADAPTER])), requires_grad=False)


def _still_tied(model: Any, target: str | None, origin: str | None) -> bool:
    """Whether what the adapter does to two tied modules is the same."""
    from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper

    if target is None or origin is None:
        return target is origin
    one, other = model.get_submodule(target), model.get_submodule(origin)
    if isinstance(one, TrainableTokensWrapper) and isinstance(other, TrainableTokensWrapper):
        return one.token_adapter.tied_adapter is other.token_adapter
    if isinstance(one, ModulesToSaveWrapper) and isinstance(other, ModulesToSaveWrapper):
        return torch.equal(one.modules_to_save[_ADAPTER].weight, other.modules_to_save[_ADAPTER].weight)
    return False


@contextlib.contextmanager
def _in_place() -> Iterator[None]:
    """While it lasts, PEFT leaves the adapter where it is instead of sending it to where the base is: nowhere."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    name, kinds = "_move_adapter_to_device_of_base_layer", [BaseTunerLayer]
    for kind in kinds:
        kinds += [below for below in kind.__subclasses__() if below not in kinds]
    originals = {kind: vars(kind)[name] for kind in kinds if name in vars(kind)}
    for kind in originals:
        setattr(kind, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for kind, original in originals.items():
            setattr(kind, name, original)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libraries say about models without memory to themselves."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
