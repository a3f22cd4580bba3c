"""A full-size architecture made small: the same class, vocabulary and kinds of layers, few layers and narrow ones. Pure: no torch.

Works on config.json as a mapping with every key of its class filled in (`PretrainedConfig.to_dict()`). Widths stay multiples of
64, which 4-bit blocks need, and heads stay multiples of the key-value heads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
FEED_FORWARD = (
    "intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "moe_intermediate_size", "intermediate_size_mlp",
    "shared_expert_intermediate_size", "shared_intermediate_size", "expert_ffn_hidden_size",
)  # fmt: skip
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "experts_per_token")
LATENT = {
    "q_lora_rank": 64, "kv_lora_rank": 64, "qk_rope_head_dim": 32, "qk_nope_head_dim": 32, "v_head_dim": 64, "qk_head_dim": 64,
    "hidden_size_per_layer_input": 64, "index_head_dim": 64,
}  # fmt: skip
"""Widths of latent attention (DeepSeek) and the like, with the width they are cut to."""
WIDTH, FEED_FORWARD_WIDTH, FEW_EXPERTS = 128, 256, 4
MOST_LAYERS = 8
"""Layers that are kept at most, where a model has many kinds of them."""
DENSE_FIRST = "first_k_dense_replace"


@dataclass(frozen=True)
class Small:
    """A config made small.

    Attributes:
        config: The small config, as complete as the full one.
        layers: Numbers of the full model's layers that the small one's stand for, ascending.
        depth: Layers of the full model; 0 where the config does not say.
    """

    config: dict[str, Any]
    layers: tuple[int, ...]
    depth: int


def shrink(config: Mapping[str, Any], wanted: Iterable[int] = (), widths: bool = True) -> Small:
    """`config` made small.

    Args:
        config: Every key of the class, as `to_dict()` gives them; parts such as `text_config` are made small as well.
        wanted: Layers one of which must stay, such as those that an adapter names; empty for any.
        widths: Whether widths shrink; else only the number of layers does.
    """
    out = copy.deepcopy(dict(config))
    text = _text(out)
    kept, depth = _kept(text, list(wanted))
    for part in _parts(out):
        mine, whole = (kept, depth) if part is text or _value(part, LAYERS) == depth else _kept(part, [])
        _fewer_layers(part, mine, whole)
        if widths:
            _narrower(part)
    out.pop("quantization_config", None)
    return Small(out, kept, depth)


def _text(config: dict[str, Any]) -> dict[str, Any]:
    """The part that is the language model."""
    for name in ("text_config", "llm_config", "language_config", "thinker_config"):
        inner = config.get(name)
        if isinstance(inner, dict) and inner:
            return _text(inner)
    return config


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """`config` and every config in it."""
    inner = [v for k, v in config.items() if isinstance(v, dict) and k.endswith("_config") and "quant" not in k]
    return [config, *(part for one in inner for part in _parts(one))]


def _value(part: Mapping[str, Any], names: Iterable[str]) -> int:
    found = next((part[n] for n in names if isinstance(part.get(n), int) and part[n]), 0)
    return int(found)


def _kept(part: Mapping[str, Any], wanted: list[int]) -> tuple[tuple[int, ...], int]:
    """`(layers to keep, depth)`: the first of every kind, at least two, and one that is wanted."""
    depth = _value(part, LAYERS)
    if not depth:
        return (), 0
    lists = [v for v in part.values() if isinstance(v, list) and len(v) == depth]
    numbered = [set(v) for v in _index_lists(part, depth).values()]
    first = part.get(DENSE_FIRST)
    dense = first if isinstance(first, int) else 0
    period = next((p for n in ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", "attn_layer_period")
                   if isinstance(p := part.get(n), int) and p > 1), 1)  # fmt: skip

    def kind(i: int) -> str:
        return repr([*(v[i] for v in lists), *(i in s for s in numbered), i < dense, i % period])

    kinds: dict[str, int] = {}
    for i in range(depth):
        kinds.setdefault(kind(i), i)
    kept = sorted(kinds.values())[:MOST_LAYERS]
    if period > 1:  # told by the number of the layer: only the first ones keep their kind
        kept = list(range(min(depth, max(period, len(kept)), MOST_LAYERS)))
    fine = [i for i in wanted if 0 <= i < depth]
    if fine and not set(fine) & set(kept):
        kept.append(fine[0])
    for i in range(depth):
        if len(kept) >= min(2, depth):
            break
        if i not in kept:
            kept.append(i)
    return tuple(sorted(kept)), depth


def _index_lists(part: Mapping[str, Any], depth: int) -> dict[str, list[int]]:
    """Lists that name layers by number (`mlp_only_layers`)."""
    return {
        name: value
        for name, value in part.items()
        if isinstance(value, list)
        and value
        and len(value) != depth
        and (name.endswith(("_layers", "_idxs", "_layer_ids", "layers_block_type_ids")) or name == "moe_layers")
        and all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x < depth for x in value)
    }


def _fewer_layers(part: dict[str, Any], kept: tuple[int, ...], depth: int) -> None:
    if not depth:
        return
    for name, numbers in _index_lists(part, depth).items():
        part[name] = [kept.index(i) for i in numbers if i in kept]
    for name, value in part.items():
        if isinstance(value, list) and len(value) == depth:
            part[name] = [value[i] for i in kept]
    for name in LAYERS:
        if isinstance(part.get(name), int):
            part[name] = len(kept)
    if isinstance(part.get(DENSE_FIRST), int):
        part[DENSE_FIRST] = sum(i < part[DENSE_FIRST] for i in kept)
    for name in ("max_window_layers", "num_kv_shared_layers"):
        if isinstance(part.get(name), int):
            part[name] = min(part[name], len(kept)) if name == "max_window_layers" else 0
    if isinstance(part.get("num_nextn_predict_layers"), int):
        part["num_nextn_predict_layers"] = 0


def _narrower(part: dict[str, Any]) -> None:
    hidden, heads = _value(part, HIDDEN), _value(part, HEADS)
    if not hidden or not heads:
        return
    kv = _value(part, KV_HEADS) or heads
    own = _value(part, ("head_dim",))
    before = own or hidden // heads
    latent = _value(part, ("kv_lora_rank",))
    fewer, fewer_kv, head_dim = (2, 1, 64) if kv == 1 and heads > 1 else (4, 2, 32) if kv < heads else (4, 4, 32)
    if hidden <= WIDTH:  # small already
        fewer, fewer_kv, head_dim = heads, kv, before
    if latent:
        fewer, fewer_kv = 4, 4 if kv == heads else 2
    width = min(hidden, WIDTH)
    for names, value in ((HIDDEN, width), (HEADS, fewer), (KV_HEADS, fewer_kv)):
        for name in names:
            if isinstance(part.get(name), int) and not isinstance(part[name], bool):
                part[name] = value
    if own:
        part["head_dim"] = head_dim
    for name in FEED_FORWARD:
        if isinstance(part.get(name), int) and part[name]:
            part[name] = min(part[name], FEED_FORWARD_WIDTH)
        elif isinstance(part.get(name), list):
            part[name] = [min(int(x), FEED_FORWARD_WIDTH) for x in part[name]]
    for name, value in LATENT.items():
        if isinstance(part.get(name), int) and part[name]:
            part[name] = min(part[name], value)
    for name in ("word_embed_proj_dim", "embedding_size", "out_hidden_size", "projection_dim"):
        if isinstance(part.get(name), int):
            part[name] = width
    if isinstance(part.get("rotary_dim"), int):
        part["rotary_dim"] = min(part["rotary_dim"], head_dim)
    _fewer_experts(part)
    rope = part.get("qk_rope_head_dim") if latent else head_dim
    ratio = (int(rope) if rope else head_dim) / max(before, 1)
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(part.get(name), dict):
            part[name] = _rope(part[name], ratio)


def _fewer_experts(part: dict[str, Any]) -> None:
    for name in EXPERTS:
        if isinstance(part.get(name), int) and part[name] > FEW_EXPERTS:
            part[name] = FEW_EXPERTS
    for name in EXPERTS_A_TOKEN:
        if isinstance(part.get(name), int):
            part[name] = min(part[name], 2)
    for name in ("n_group", "topk_group"):
        if isinstance(part.get(name), int):
            part[name] = 1


def _rope(values: dict[str, Any], ratio: float) -> dict[str, Any]:
    """Position settings for narrower heads: factors of each pair of dimensions cut, sections of dimensions shrunk."""
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out[name] = _rope(value, ratio)
        elif name in ("long_factor", "short_factor") and isinstance(value, list):
            out[name] = value[: max(1, round(len(value) * ratio))]
        elif name == "mrope_section" and isinstance(value, list):
            whole = max(1, round(sum(value) * ratio))
            cut = [max(1, int(v * ratio)) for v in value[1:]]
            out[name] = [whole - sum(cut), *cut]
        else:
            out[name] = value
    return out
