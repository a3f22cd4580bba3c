"""Looks at the weights themselves: is every trained tensor base plus adapter, and all the rest the base's? One tensor at a time.

The expected weight is computed anew from the base's file and the exported adapter, in float32, and rounded once to the type of the
file. Answers may hide a layer that was left out; this finds it, in any one tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nothing_tune.artifacts import read_json
from nothing_tune.engine.export.proof.checks import check, unknown
from nothing_tune.outputs.weights import FLOATS, header

APART = 0.1
"""How far a merged weight may lie from base plus adapter, as a share of what the adapter changes (norms). Rounding in another order
moves single numbers by one place; a merge that is left out is 1 away, one done twice as well."""
NAMED = 3
"""Tensors that are named in a sentence."""
_PREFIX = "base_model.model."


@dataclass
class Found:
    """What was found: names of tensors.

    Attributes:
        right: Trained, and base plus adapter.
        left_out: Trained, and as in the base.
        wrong: Trained, neither.
        strange: Not trained, and not as in the base.
        gone: In the base, not in the merged model.
        unknown: Trained in a way that is not computed here.
        worst: Largest distance of a trained tensor, as a share of what the adapter changes.
        dtypes: Types of the merged tensors where they are not the base's: name -> type.
    """

    right: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    worst: float = 0.0
    dtypes: dict[str, str] = field(default_factory=dict)


def compare(merged: Path, base: Path, adapter: Path) -> Found:
    """Compares the model in `merged` with the one in `base` and the plain adapter in `adapter`."""
    from safetensors.torch import load_file

    config = read_json(adapter / "adapter_config.json") or {}
    tensors = {n: t for f in sorted(adapter.glob("adapter_model*.safetensors")) for n, t in load_file(f).items()}
    theirs, ours = _Files(base), _Files(merged)
    trained = _grouped(tensors, theirs.names | ours.names)
    rest = set(trained.pop("", {}))
    found = Found(unknown=sorted(rest))
    computed = (
        str(config.get("peft_type", "")).upper() == "LORA" and str(config.get("init_lora_weights")).lower() != "loftq"
    )
    for name in sorted(theirs.names):
        if name not in ours.names:
            found.gone.append(name)
            continue
        before, after = theirs.get(name), ours.get(name)
        if before.dtype != after.dtype:
            found.dtypes[name] = str(after.dtype).removeprefix("torch.")
        parts = trained.get(name)
        if parts is None:
            rows = min(before.shape[0], after.shape[0]) if before.dim() else None
            if not torch.equal(
                before[:rows].to(after.dtype) if rows else before.to(after.dtype), after[:rows] if rows else after
            ):
                found.strange.append(name)
            continue
        expected = _expected(name, before, parts, config, after.shape[0]) if computed else None
        if expected is None:
            same = before.shape == after.shape and torch.equal(before.to(after.dtype), after)
            (found.left_out if same else found.unknown).append(name)
            continue
        _judge(found, name, before, after, expected)
    for name in sorted(ours.names - theirs.names):  # a head that was tied to the embedding, and trained
        whole = trained.get(name, {}).get("whole")
        after = ours.get(name)
        if whole is None and any(torch.equal(after, t) for t in _untied(name, theirs)):
            continue
        if whole is None:
            found.strange.append(name)
        else:
            same = whole.shape == after.shape and torch.equal(whole.to(after.dtype), after)
            (found.right if same else found.wrong).append(name)
    return found


def checks(found: Found, dtype: str) -> list[dict[str, Any]]:
    """The checks of what `compare` found; `dtype` is the base's."""
    trained = len(found.right) + len(found.left_out) + len(found.wrong)
    out = []
    if found.left_out or found.wrong:
        parts = []
        if found.left_out:
            parts.append(
                f"{_of(found.left_out, trained)} as in the base, the merge was left out: {_names(found.left_out)}"
            )
        if found.wrong:
            parts.append(f"{_of(found.wrong, trained)} not base plus adapter: {_names(found.wrong)}")
        out.append(check("merged-weights", False, "; ".join(parts), found.worst, APART))
    elif found.right:
        what = f"all {trained} trained tensors are base plus adapter"
        out.append(check("merged-weights", True, what, found.worst, APART))
    if found.unknown:
        why = f"{len(found.unknown)} trained tensors are merged in a way that is not computed here: {_names(found.unknown)}"
        out.append(unknown("merged-weights-unknown" if trained else "merged-weights", why))
    if found.gone:
        out.append(
            check("other-weights", False, f"{len(found.gone)} tensors of the base are not there: {_names(found.gone)}")
        )
    elif found.strange:
        what = f"{len(found.strange)} tensors that were not trained differ from the base: {_names(found.strange)}"
        out.append(check("other-weights", False, what))
    else:
        out.append(check("other-weights", True, "what was not trained is as in the base"))
    if found.dtypes:
        kinds = ", ".join(sorted(set(found.dtypes.values())))
        what = f"the base is {dtype}, {len(found.dtypes)} tensors are {kinds}: {_names(sorted(found.dtypes))}"
        out.append(check("dtype", False, what))
    else:
        out.append(check("dtype", True, f"the weights are {dtype}, as the base's"))
    return out


def _untied(name: str, theirs: _Files) -> Iterator[torch.Tensor]:
    """What a head that was tied to the embedding is where the embedding alone was trained: the base's embedding."""
    if name.endswith("lm_head.weight"):
        yield from (theirs.get(n) for n in theirs.names if n.endswith(("embed_tokens.weight", "wte.weight")))


def _judge(found: Found, name: str, before: torch.Tensor, after: torch.Tensor, expected: torch.Tensor) -> None:
    if expected.shape != after.shape:
        found.wrong.append(name)
        found.worst = math.inf
        return
    wanted = expected.to(before.dtype).float()
    old = before.float()
    if old.shape == wanted.shape:
        change = float((wanted - old).norm())
        moved = not torch.equal(after.float(), old)
    else:
        change, moved = float(wanted.norm()), True
    apart = float((after.float() - wanted).norm())
    tiny = 1e-6 * float(wanted.norm())  # sums in another order
    share = apart / change if change else (0.0 if apart <= tiny else math.inf)
    if math.isnan(share):
        share = math.inf
    if apart > tiny:
        found.worst = max(found.worst, share)
    if share <= APART or (apart <= tiny and (moved or not change)):
        found.right.append(name)
    elif not moved:
        found.left_out.append(name)
    else:
        found.wrong.append(name)


def _expected(
    name: str, weight: torch.Tensor, parts: Mapping[str, torch.Tensor], config: Mapping[str, Any], rows: int
) -> torch.Tensor | None:
    """The merged tensor in float32; None for what is not computed here. `rows`: of the merged one, more where tokens were added."""
    module = name.rsplit(".", 1)[0]
    base = weight.float()
    if rows > base.shape[0]:  # as `build.grow` does
        mean = base.mean(dim=0, keepdim=True).to(weight.dtype).float()
        base = torch.cat([base, mean.expand(rows - base.shape[0], -1)])
    kinds = set(parts)
    if kinds == {"whole"}:
        return parts["whole"].float()
    if kinds == {"rows"}:
        places = _token_places(module, config)
        given = parts["rows"].float()
        if places is None or len(places) != given.shape[0] or max(places) >= base.shape[0]:
            return None
        out = base.clone()
        out[places] = given
        return out
    if {"A", "B"} <= kinds <= {"A", "B", "magnitude"} and not config.get("target_parameters"):
        a, b = parts["A"].float(), parts["B"].float()
        delta = _scale(module, a.shape[0], config) * (b @ a)
        if config.get("fan_in_fan_out"):
            delta = delta.T
        if delta.shape != base.shape:
            return None
        out = base + delta
        if "magnitude" in kinds:
            if config.get("fan_in_fan_out"):
                return None
            size = parts["magnitude"].float().reshape(-1, 1)
            out = out * (size / out.norm(dim=1, keepdim=True))
        return out
    if {"embedding_A", "embedding_B"} <= kinds <= {"embedding_A", "embedding_B", "whole"}:
        base = parts["whole"].float() if "whole" in parts else base  # PEFT saves the embedding itself along
        a, b = parts["embedding_A"].float(), parts["embedding_B"].float()
        delta = _scale(module, a.shape[0], config) * (b @ a).T
        return base + delta if delta.shape == base.shape else None
    return None


_KINDS = {
    "lora_A": "A", "lora_B": "B", "lora_magnitude_vector": "magnitude", "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B", "trainable_tokens_delta": "rows",
}  # fmt: skip


def _grouped(tensors: Mapping[str, torch.Tensor], names: set[str]) -> dict[str, dict[str, torch.Tensor]]:
    """The adapter's tensors by the base's tensor that they change, each under what it is; under "" those of no known one."""
    out: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        plain = key.removeprefix(_PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.", ".")
        kind = next((k for word, k in _KINDS.items() if f".{word}" in plain), None)
        if kind is None:
            target = plain if plain in names else ""
            out.setdefault(target, {})["whole" if target else plain] = tensor
            continue
        module = re.split(rf"\.(?:token_adapter\.)?(?:{'|'.join(_KINDS)})", plain)[0]
        known = f"{module}.weight" in names and not plain.endswith(".bias")
        target = f"{module}.weight" if known else ""
        out.setdefault(target, {})[kind if target else plain] = tensor
    return out


def _scale(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """PEFT's scaling of a module: alpha / r, or alpha / sqrt(r) for rsLoRA."""
    alpha = config.get("lora_alpha") or 0
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _token_places(module: str, config: Mapping[str, Any]) -> list[int] | None:
    given = config.get("trainable_token_indices")
    if isinstance(given, Mapping):
        given = next((v for k, v in given.items() if module == k or module.endswith(f".{k}")), None)
    return [int(i) for i in given] if isinstance(given, list) else None


def _of(names: list[str], total: int) -> str:
    return f"{len(names)} of {total} trained tensors {'is' if len(names) == 1 else 'are'}"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


class _Files:
    """Tensors of a model's safetensors files, read one at a time."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._where: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            handle = safe_open(path, framework="pt")
            for name in handle.keys():  # noqa: SIM118  # it is no mapping
                self._where[name] = handle

    @property
    def names(self) -> set[str]:
        return set(self._where)

    def get(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._where[name].get_tensor(name)
        return tensor


def other_dtypes(folder: Path, base: Path, usual: str) -> list[str]:
    """Types in `folder`, each once, of tensors that the base has in another type (`usual` for those that it does not have)."""
    kept, found = _dtypes(base), _dtypes(folder)
    return sorted({dtype for name, dtype in found.items() if dtype != kept.get(name, usual)})


def _dtypes(folder: Path) -> dict[str, str]:
    out: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        out |= {name: FLOATS.get(entry.dtype, entry.dtype.lower()) for name, entry in header(path).items()}
    return out
