"""What a PEFT method adds to a model: which matrices it reaches and how many parameters it trains. Pure.

As PEFT 0.21 builds them (peft/tuners, read 2026-11-21).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nothing_tune.plan.architecture.matrices import norm_biases
from nothing_tune.plan.architecture.model import Shape, Unlisted

KNOWN = ("LORA", "IA3", "VERA")
"""Methods whose parameters and memory are known here."""
Q_V, Q_V_DOWN, K_V_DOWN = ("q_proj", "v_proj"), ("q_proj", "v_proj", "down_proj"), ("k_proj", "v_proj", "down_proj")
DEFAULT_TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "LORA": {
        **dict.fromkeys(
            ("llama", "mistral", "mixtral", "stablelm", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"), Q_V
        ),
        "phi": ("q_proj", "v_proj", "fc1", "fc2"),
        "gpt_neox": ("query_key_value",),
    },
    "IA3": {
        **dict.fromkeys(("llama", "mistral"), K_V_DOWN),
        **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"), Q_V_DOWN),
        "phi": ("q_proj", "v_proj", "fc2"),
        "gpt_neox": ("query_key_value", "dense_4h_to_h"),
    },
}
DEFAULT_TARGETS["VERA"] = {**DEFAULT_TARGETS["LORA"], "phi": Q_V}
"""What PEFT targets where nothing is written (peft/utils/constants.py); the families that are listed there and here."""


FUSED = {
    "gate": "gate",
    "gate_proj": "experts.gate_up_proj",
    "up_proj": "experts.gate_up_proj",
    "down_proj": "experts.down_proj",
}
FOLDED = {
    "mixtral": {"gate": "gate", "w1": "experts.gate_up_proj", "w3": "experts.gate_up_proj", "w2": "experts.down_proj"},
    "qwen3_moe": FUSED,
    "olmoe": FUSED,
}
"""Families whose experts PEFT reaches as parameters, by the names that the experts' matrices had before transformers 5
(peft/utils/transformers_weight_conversion.py). There `all-linear` means the experts and the router too."""


EMBEDDING = {"gpt_neox": "embed_in"}
"""Names of the embedding that are not `embed_tokens`."""


@dataclass(frozen=True)
class Method:
    """A PEFT method as it is applied to one model.

    Attributes:
        name: `LORA`, `IA3` or `VERA`.
        targets: Names of the matrices that get an adapter.
        rank: r; 0 for IA3.
        dropout: Share of the adapter's inputs dropped.
        dora: Whether a magnitude is trained apart.
        feedforward: Targets that IA3 scales at their input.
        ranks: Ranks that differ from `rank`, by name.
        saved: Modules trained in full next to the adapter, in a copy (`modules_to_save`).
        tokens: Rows of the embedding trained alone, and those of an output layer of its own.
        bias: `none`, `all` or `lora_only`: which biases train.
    """

    name: str
    targets: frozenset[str]
    rank: int = 0
    dropout: float = 0.0
    dora: bool = False
    feedforward: frozenset[str] = frozenset()
    ranks: tuple[tuple[str, int], ...] = ()
    saved: tuple[str, ...] = ()
    tokens: tuple[int, int] = (0, 0)
    bias: str = "none"

    def rank_of(self, name: str) -> int:
        """Rank of the adapter on matrices called `name`."""
        return dict(self.ranks).get(name, self.rank)


def method(shape: Shape, peft: Mapping[str, Any]) -> Method:
    """The PEFT settings `peft` applied to `shape`. `Unlisted` where their effect is not known here."""
    name = str(peft.get("peft_type") or "LORA").upper()
    if name not in KNOWN:
        raise Unlisted(f"what the PEFT method {name} keeps in memory is not listed")
    for key in ("layers_to_transform", "layer_replication", "target_parameters", "exclude_modules", "layers_pattern"):
        if peft.get(key):
            raise Unlisted(f"which matrices peft.{key} leaves is not counted here")
    for key in (
        "use_qalora",
        "alora_invocation_tokens",
        "corda_config",
        "trainable_token_indices_config",
        "use_bdlora",
    ):
        if peft.get(key):
            raise Unlisted(f"what peft.{key} keeps in memory is not listed")
    names = {x.name for x in shape.linears if not x.parameter}
    targets = _targets(shape, name, peft.get("target_modules"), names)
    folded = {t for t in targets if t == "gate" or t.startswith("experts.")}
    if folded and (name != "LORA" or peft.get("use_dora")):
        raise Unlisted("PEFT adapts experts by plain LoRA only, without DoRA: name targets outside of them")
    default = {"LORA": 8, "VERA": 256, "IA3": 0}[name]
    pattern = {str(k).rsplit(".", 1)[-1].strip("^$"): int(v) for k, v in (peft.get("rank_pattern") or {}).items()}
    if any("." in str(k) for k in peft.get("rank_pattern") or {}):
        raise Unlisted("a rank_pattern that names single layers is not counted here")
    if "experts.gate_up_proj" in folded:
        pattern.setdefault("experts.gate_up_proj", 2 * int(peft.get("r") or default))  # two matrices that became one
    forward = peft.get("feedforward_modules") or []
    if name == "IA3" and peft.get("feedforward_modules") is None:
        forward = [t for t in targets if t in ("down_proj", "fc2", "dense_4h_to_h")]
    return Method(
        name=name,
        targets=frozenset(targets),
        rank=int(peft.get("r") or default) if name != "IA3" else 0,
        dropout=0.0 if folded or name == "IA3" else _dropout(peft, name),  # of folded targets PEFT refuses any
        dora=name == "LORA" and bool(peft.get("use_dora")),
        feedforward=frozenset([forward] if isinstance(forward, str) else forward),
        ranks=tuple(sorted(pattern.items())),
        saved=tuple(peft.get("modules_to_save") or ()),
        tokens=_tokens(shape, peft.get("trainable_token_indices")),
        bias=str(peft.get("bias") or "none"),
    )


def adapts_experts(shape: Shape, peft: Mapping[str, Any] | None) -> bool:
    """Whether LoRA is put on experts or routers, which are parameters and no modules.

    PEFT does so by ParamWrapper, which refuses dropout (peft/tuners/lora/layer.py). False where nobody can tell.
    """
    if not peft or str(peft.get("peft_type") or "LORA").upper() != "LORA":
        return False
    if peft.get("target_parameters"):
        return True
    names = {x.name for x in shape.linears if not x.parameter}
    try:
        targets = _targets(shape, "LORA", peft.get("target_modules"), names)
    except Unlisted:
        return False
    return any(t == "gate" or t.startswith("experts.") for t in targets)


def _dropout(peft: Mapping[str, Any], name: str) -> float:
    return float(peft.get("lora_dropout" if name == "LORA" else "vera_dropout") or 0)


def adapter_parameters(shape: Shape, peft: Mapping[str, Any] | None) -> int | None:
    """Parameters that train: all for full fine-tuning (None); None where the method's are not known here."""
    if not peft:
        return shape.parameters
    try:
        made = method(shape, peft)
        return sum(trained(shape, made).values())
    except Unlisted:
        return None


def trained(shape: Shape, made: Method) -> dict[str, int]:
    """Trained parameters by what they are: `adapter`, `magnitude` (DoRA), `saved` modules, `tokens`, `bias`."""
    reached = [x for x in shape.linears if x.name in made.targets]
    out = {
        "adapter": 0,
        "magnitude": 0,
        "saved": saved(shape, made),
        "tokens": sum(made.tokens) * shape.hidden,
        "bias": 0,
    }
    for x in reached:
        rank = made.rank_of(x.name)
        if made.name == "LORA":
            out["adapter"] += x.count * rank * (x.rows + x.columns)
            out["magnitude"] += x.count * x.rows * made.dora
        elif made.name == "IA3":
            out["adapter"] += x.count * (x.columns if x.name in made.feedforward else x.rows)
        else:
            out["adapter"] += x.count * (x.rows + rank)
        out["bias"] += x.count * x.rows * (x.bias and made.bias == "lora_only")
    out["adapter"] += sum(router_parameters(shape, made))
    if made.bias == "all":
        out["bias"] = sum(x.count * x.rows for x in shape.linears if x.bias) + shape.vocab * shape.head_bias
        out["bias"] += norm_biases(shape)
    return out


def router_parameters(shape: Shape, made: Method) -> list[int]:
    """Parameters of the adapters on routers, one number a layer that has one."""
    if "gate" not in made.targets or made.name != "LORA":
        return []
    counts = [(b.experts.count, times) for b, times in shape.blocks if b.experts]
    return [made.rank_of("gate") * (shape.hidden + count) for count, times in counts for _ in range(times)]


def saved(shape: Shape, made: Method) -> int:
    """Parameters of the copies that `modules_to_save` trains. `Unlisted` for modules that are not known here."""
    total = 0
    for name in made.saved:
        if name in ("lm_head", EMBEDDING.get(shape.family, "embed_tokens")):
            total += shape.embedding + (shape.vocab if name == "lm_head" and shape.head_bias else 0)
        elif name in ("embed_tokens", "embed_in", "embed_out"):
            continue  # the name of another family's: PEFT passes over it
        elif any(x.name == name for x in shape.linears):
            total += sum(x.parameters for x in shape.linears if x.name == name)
        else:
            raise Unlisted(f"how many parameters the saved module {name} has is not counted here")
    return total


def shared_matrices(shape: Shape, made: Method) -> int:
    """Parameters of the frozen random matrices that VeRA shares between all layers; 0 for other methods."""
    if made.name != "VERA":
        return 0
    reached = [x for x in shape.linears if x.name in made.targets]
    return made.rank * (max(x.rows for x in reached) + max(x.columns for x in reached)) if reached else 0


def _targets(shape: Shape, name: str, written: Any, names: set[str]) -> set[str]:
    if written is None:
        found = DEFAULT_TARGETS[name].get(shape.family)
        if found is None:
            raise Unlisted(f"which matrices PEFT targets in {shape.family} by default is not listed")
        return set(found)
    if isinstance(written, str):
        if written.lower() == "all-linear":
            return _folded(names | set(FOLDED[shape.family]), shape) if shape.family in FOLDED else names
        pattern = re.compile(written)  # PEFT matches the whole path; a layer's path ends with the leaf name
        block = {
            n
            for n in names
            if pattern.fullmatch(f"model.layers.0.self_attn.{n}") or pattern.fullmatch(f"model.layers.0.mlp.{n}")
        }
        if not block:
            raise Unlisted(f"which matrices the pattern {written} reaches is not known here")
        return block
    leaves = {str(x).rsplit(".", 1)[-1] for x in written}
    if shape.family in FOLDED:
        leaves = _folded(leaves, shape)
        names = names | {"gate", "experts.gate_up_proj", "experts.down_proj"}
    if not leaves & names:
        raise Unlisted(f"none of {', '.join(sorted(leaves))} is a matrix of {shape.family} that is known here")
    return leaves & names


def _folded(leaves: set[str], shape: Shape) -> set[str]:
    """Targets with those of experts under the names they have now."""
    old = FOLDED[shape.family]
    pair = {k for k, v in old.items() if v == "experts.gate_up_proj"}
    if len(leaves & pair) == 1:
        raise Unlisted(f"PEFT adapts {' and '.join(sorted(pair))} of experts only together")
    return {old.get(leaf, leaf) for leaf in leaves}


def _tokens(shape: Shape, written: Any) -> tuple[int, int]:
    if not written:
        return 0, 0
    if isinstance(written, Mapping):
        heads = sum(len(v) for k, v in written.items() if k in ("lm_head", "embed_out"))
        return sum(len(v) for v in written.values()) - heads, heads
    return len(written), 0
