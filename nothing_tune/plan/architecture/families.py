"""The decoder families that are known, read from a config.json as it is on the hub.

Each reader says what transformers 5.23 builds from the config (models/*/modeling_*.py, read 2026-11-21): names of the
matrices, biases, norms, order. Values that a config leaves out are those of the family's configuration class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nothing_tune.plan.architecture.matrices import all_linears, other_parameters
from nothing_tune.plan.architecture.model import Block, Experts, Linear, Shape, Unlisted

Config = Mapping[str, Any]
GLM = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
CODE = ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj")
NEOX = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
PHI = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
PLAIN = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
ARCHITECTURES = {"Gemma3ForConditionalGeneration": "gemma3", "GPTNeoXForCausalLM": "gpt_neox"}
"""Class names in `architectures` that do not spell their model_type, for configs that give only those."""


def shape(config: Config) -> Shape:
    """The shape of the model that `config` describes.

    Args:
        config: config.json of a causal language model, or the facts of a recipe; a nested `text_config` is understood.

    Raises:
        Unlisted: The family is not known here, or a size is missing or makes no sense.
    """
    inner = config.get("text_config")
    if isinstance(inner, Mapping):
        return _with_tower(config, inner)
    name = family(config)
    if name not in FAMILIES:
        raise Unlisted(f"the family {name or 'of this model'} is not listed")
    config = {**SIZES.get(name, {}), **{k: v for k, v in config.items() if v is not None or k in NONE_MEANS_NONE}}
    reader, tied, scaled = FAMILIES[name]
    hidden, layers = _size(config, "hidden_size"), _size(config, "num_hidden_layers")
    heads = _size(config, "num_attention_heads")
    kv = int(config.get("num_key_value_heads") or heads) if name != "gpt_neox" else heads
    head_dim = (
        hidden // heads if name in OWN_HEADS else int(config.get("head_dim") or HEAD_DIM.get(name) or hidden // heads)
    )
    vocab = _size(config, "vocab_size")
    if heads % kv:
        raise Unlisted(f"{heads} heads cannot share {kv} key and value heads evenly")
    blocks = [reader(config, layer) for layer in range(layers)]
    counted = Counter(blocks)
    base = Shape(
        family=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv,
        head_dim=head_dim,
        intermediate=max(b.intermediate or (b.experts.width if b.experts else 0) for b in blocks),
        vocab=vocab,
        tied=bool(config.get("tie_word_embeddings", tied)),
        context=int(config["max_position_embeddings"]) if config.get("max_position_embeddings") else None,
        window=min((b.window for b in blocks if b.window), default=None),
        linears=(),
        other=0,
        blocks=tuple(counted.items()),
        embedding_scaled=scaled,
        head_bias=name == "phi",
        routed=any(b.experts for b in blocks) and (config.get("router_aux_loss_coef", 0.001) or 0) != 0,
    )
    return replace(base, linears=all_linears(base), other=other_parameters(base))


def family(config: Config) -> str:
    """`model_type` of `config`, of its text part where that is a model of its own; empty where it says nothing."""
    name = str(config.get("model_type") or "")
    if not name:
        classes = [str(x) for x in config.get("architectures") or [config.get("architecture") or ""]]
        first = classes[0] if classes else ""
        name = ARCHITECTURES.get(first) or _snake(first.removesuffix("ForCausalLM"))
    return "gemma3_text" if name == "gemma3" else name


def _with_tower(config: Config, inner: Config) -> Shape:
    """A model that sees images too: the text model's shape, the tower's parameters counted, no text passing them."""
    name = str(config.get("model_type") or "")
    if name not in TOWERS:
        raise Unlisted(f"the family {name or 'of this model'} is not listed")
    text = {**inner, "model_type": inner.get("model_type") or TOWERS[name]}
    if "tie_word_embeddings" in config:
        text.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
    base = shape(text)
    seen = config.get("vision_config")
    if not isinstance(seen, Mapping):
        return base
    width, layers = _size(seen, "hidden_size"), _size(seen, "num_hidden_layers")
    wide, patch, image = _size(seen, "intermediate_size"), _size(seen, "patch_size"), _size(seen, "image_size")
    names = [("q_proj", width, width), ("k_proj", width, width), ("v_proj", width, width), ("out_proj", width, width)]
    names += [("fc1", wide, width), ("fc2", width, wide)]
    tower = tuple(Linear(n, rows, columns, layers, True, share=0.0) for n, rows, columns in names)
    other = layers * 4 * width + 2 * width + 3 * patch**2 * width + width + (image // patch) ** 2 * width
    return replace(base, linears=base.linears + tower, other=base.other + other + width * base.hidden + width)


def _size(config: Config, key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Unlisted(f"the model's config gives no {key}")
    return value


def _snake(name: str) -> str:
    """`llama` for `Llama`, `qwen3_moe` for `Qwen3Moe`."""
    out = "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))
    return {"ol_mo": "olmo", "ol_mo2": "olmo2", "smol_l_m3": "smollm3", "stable_lm": "stablelm"}.get(out, out)


def _window(config: Config, layer: int, default: str = "full", size: int | None = None) -> int | None:
    """Tokens that layer `layer` looks back, where layers differ by `layer_types`; `default` says what happens without."""
    window = config.get("sliding_window", size)
    types = config.get("layer_types")
    if types:
        return int(window) if window and types[layer] == "sliding_attention" else None
    if default == "every":
        return int(window) if window else None
    if default == "upper":  # Qwen: the layers from max_window_layers on, where it is switched on
        on = config.get("use_sliding_window") and layer >= int(config.get("max_window_layers", 28))
        return int(window) if on and window else None
    if default.isdigit():  # every so many layers one looks at everything
        return None if (layer + 1) % int(default) == 0 else int(window or 0) or None
    return None


def _dense(config: Config, **more: Any) -> Block:
    """A layer like Llama's, with what differs in `more`."""
    attention = bool(config.get("attention_bias", False))
    found: dict[str, Any] = {
        "attention_bias": (attention, attention),
        "mlp_bias": bool(config.get("mlp_bias", False)),
        "activation": str(config.get("hidden_act") or "silu"),
        "dropout": (float(config.get("attention_dropout") or 0), 0.0),
        "intermediate": _size(config, "intermediate_size"),
    }
    made = Block(**{**found, **more})
    return replace(made, joined=0 < made.rotary < 1 or made.joined)


def _rotary(config: Config, default: float) -> float:
    rope = config.get("rope_parameters") or {}
    value: Any = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", config.get("rotary_pct")))
    return default if value is None else float(value)


def _llama(c: Config, i: int) -> Block:
    return _dense(c)


def _mistral(c: Config, i: int) -> Block:
    return _dense(c, attention_bias=(False, False), mlp_bias=False, window=_window(c, i, "every"))


def _ministral(c: Config, i: int) -> Block:
    return _dense(c, attention_bias=(False, False), mlp_bias=False, window=_window(c, i, "every", 4096))


def _qwen2(c: Config, i: int) -> Block:
    return _dense(c, attention_bias=(True, False), mlp_bias=False, window=_window(c, i, "upper"))


def _qwen3(c: Config, i: int) -> Block:
    return _dense(c, mlp_bias=False, heads_norm="head", window=_window(c, i, "upper"))


def _gemma(c: Config, i: int) -> Block:
    return _dense(c, mlp_bias=False, norm="rms32", activation="gelu_pytorch_tanh")


def _gemma2(c: Config, i: int) -> Block:
    soft = c.get("attn_logit_softcapping", 50.0) is not None
    window = _window(c, i, "2", 4096)
    act = str(c.get("hidden_activation") or "gelu_pytorch_tanh")
    return _dense(c, mlp_bias=False, norm="rms32", order="sandwich", activation=act, softcap=soft, window=window)


def _gemma3(c: Config, i: int) -> Block:
    pattern = str(c.get("sliding_window_pattern") or c.get("_sliding_window_pattern") or 6)
    soft = c.get("attn_logit_softcapping") is not None
    act = str(c.get("hidden_activation") or "gelu_pytorch_tanh")
    more = {"heads_norm": "head", "softcap": soft, "window": _window(c, i, pattern, 4096), "activation": act}
    return _dense(c, mlp_bias=False, norm="rms32", order="sandwich", **more)


def _phi3(c: Config, i: int) -> Block:
    names = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    drop = (float(c.get("attention_dropout") or 0), float(c.get("resid_pdrop") or 0))
    more = {"names": names, "dropout": drop, "window": _window(c, i, "every"), "attention_bias": (False, False)}
    return _dense(c, fused_qkv=True, gated="fused", mlp_bias=False, rotary=_rotary(c, 1.0), joined=True, **more)


def _olmo(c: Config, i: int) -> Block:
    return _dense(c, norm="bare", mlp_bias=False)


def _olmo2(c: Config, i: int) -> Block:
    return _dense(c, order="post", norm="rms32", heads_norm="all", mlp_bias=False)


def _olmo3(c: Config, i: int) -> Block:
    return replace(_olmo2(c, i), window=_window(c, i, "4", 4096))


def _granite(c: Config, i: int) -> Block:
    return _dense(c, scaled=True)


def _smollm3(c: Config, i: int) -> Block:
    plain = c.get("no_rope_layers")
    interval = int(c.get("no_rope_layer_interval") or 4)
    on = bool(plain[i]) if plain else (i + 1) % interval != 0
    window = _window(c, i) if c.get("use_sliding_window") else None
    return _dense(c, rotary=1.0 if on else 0.0, window=window)


def _stablelm(c: Config, i: int) -> Block:
    one = bool(c.get("use_parallel_residual", False))
    drop = (float(c.get("attention_dropout") or 0), float(c.get("hidden_dropout") or 0))
    more = {"heads_norm": "each" if c.get("qk_layernorm") else "", "dropout": drop, "norm_bias": True}
    more["attention_bias"] = (bool(c.get("use_qkv_bias", False)), False)
    order = "parallel" if one else "pre"
    return _dense(c, order=order, norm="layer", mlp_bias=False, rotary=_rotary(c, 0.25), **more)


def _starcoder2(c: Config, i: int) -> Block:
    bias = bool(c.get("use_bias", True))
    drop = (float(c.get("attention_dropout") or 0), float(c.get("residual_dropout") or 0))
    act = str(c.get("hidden_act") or "gelu_pytorch_tanh")
    more = {"names": CODE, "dropout": drop, "window": _window(c, i, "every"), "activation": act}
    return _dense(c, norm="layer", norm_bias=True, gated="plain", mlp_bias=bias, attention_bias=(bias, bias), **more)


def _gpt_neox(c: Config, i: int) -> Block:
    bias = bool(c.get("attention_bias", True))
    order = "parallel-two" if c.get("use_parallel_residual", True) else "pre"
    drop = (float(c.get("attention_dropout") or 0), float(c.get("hidden_dropout") or 0))
    more = {"names": NEOX, "dropout": drop, "activation": str(c.get("hidden_act") or "gelu"), "fused_qkv": True}
    more |= {"attention_bias": (bias, bias), "mlp_bias": True, "norm_bias": True, "rotary": _rotary(c, 0.25)}
    return _dense(c, order=order, norm="layer", gated="plain", **more)


def _phi(c: Config, i: int) -> Block:
    drop = (float(c.get("attention_dropout") or 0), float(c.get("resid_pdrop") or 0))
    more = {
        "names": PHI,
        "dropout": drop,
        "activation": str(c.get("hidden_act") or "gelu_new"),
        "rotary": _rotary(c, 0.5),
    }
    more |= {"heads_norm": "head" if c.get("qk_layernorm") else "", "norm_bias": True, "mlp_bias": True}
    return _dense(c, order="parallel", norm="layer", gated="plain", attention_bias=(True, True), **more)


def _cohere(c: Config, i: int) -> Block:
    return _dense(
        c, order="parallel", norm="layer32", mlp_bias=False, heads_norm="each" if c.get("use_qk_norm") else ""
    )


def _cohere2(c: Config, i: int) -> Block:
    window = _window(c, i, str(c.get("sliding_window_pattern") or 4), 4096)
    return _dense(c, order="parallel", norm="layer32", mlp_bias=False, window=window, rotary=1.0 if window else 0.0)


def _glm(c: Config, i: int) -> Block:
    bias = (bool(c.get("attention_bias", True)), False)
    return _dense(c, gated="fused", names=GLM, attention_bias=bias, mlp_bias=False, rotary=_rotary(c, 0.5))


def _glm4(c: Config, i: int) -> Block:
    return replace(_glm(c, i), order="sandwich")


def _nemotron(c: Config, i: int) -> Block:
    act = str(c.get("hidden_act") or "relu2")
    more = {"names": PLAIN, "activation": act, "rotary": _rotary(c, 0.5)}
    return _dense(c, norm="layer", norm_bias=True, gated="plain", **more)


def _arcee(c: Config, i: int) -> Block:
    return _dense(c, gated="plain", names=PLAIN, activation=str(c.get("hidden_act") or "relu2"))


def _helium(c: Config, i: int) -> Block:
    attention = bool(c.get("attention_bias", False))
    return _dense(c, norm="rms32", attention_bias=(attention, False))


def _seed(c: Config, i: int) -> Block:
    bias = (bool(c.get("attention_bias", True)), bool(c.get("attention_out_bias", False)))
    drop = (_number(c, "attention_dropout"), _number(c, "residual_dropout"))
    return _dense(c, attention_bias=bias, dropout=drop)


def _mixtral(c: Config, i: int) -> Block:
    some = Experts(
        int(c.get("num_local_experts") or 8), int(c.get("num_experts_per_tok") or 2), _size(c, "intermediate_size")
    )
    more = {"experts": some, "intermediate": 0, "attention_bias": (False, False)}
    return _dense(c, mlp_bias=False, window=_window(c, i, "every"), **more)


def _number(c: Config, key: str) -> float:
    return float(c[key]) if c.get(key) is not None else 0.1


def _sparse(c: Config, i: int) -> bool:
    return i not in (c.get("mlp_only_layers") or []) and (i + 1) % int(c.get("decoder_sparse_step") or 1) == 0


def _qwen3_moe(c: Config, i: int) -> Block:
    window = _window(c, i, "every") if c.get("use_sliding_window") else None
    dense = _dense(c, mlp_bias=False, heads_norm="head", window=window)
    count = int(c.get("num_experts") or c.get("num_local_experts") or 128)
    if not _sparse(c, i):
        return dense
    some = Experts(count, int(c.get("num_experts_per_tok") or 8), int(c.get("moe_intermediate_size") or 768))
    return replace(dense, experts=some, intermediate=0)


def _qwen2_moe(c: Config, i: int) -> Block:
    bias = (bool(c.get("qkv_bias", True)), False)
    dense = _dense(c, mlp_bias=False, attention_bias=bias, window=_window(c, i, "upper"))
    if not _sparse(c, i):
        return dense
    shared = int(c.get("shared_expert_intermediate_size") or 5632)
    width, chosen = int(c.get("moe_intermediate_size") or 1408), int(c.get("num_experts_per_tok") or 4)
    return replace(dense, experts=Experts(int(c.get("num_experts") or 60), chosen, width, shared), intermediate=0)


def _olmoe(c: Config, i: int) -> Block:
    some = Experts(
        int(c.get("num_experts") or 64), int(c.get("num_experts_per_tok") or 8), _size(c, "intermediate_size")
    )
    return _dense(c, mlp_bias=False, heads_norm="all", experts=some, intermediate=0)


Reader = Callable[[Config, int], Block]
FAMILIES: dict[str, tuple[Reader, bool, bool]] = {
    "llama": (_llama, False, False),
    "mistral": (_mistral, False, False),
    "ministral": (_ministral, False, False),
    "ministral3": (_mistral, False, False),
    "qwen2": (_qwen2, False, False),
    "qwen3": (_qwen3, False, False),
    "gemma": (_gemma, True, True),
    "gemma2": (_gemma2, True, True),
    "gemma3_text": (_gemma3, True, True),
    "phi": (_phi, False, False),
    "phi3": (_phi3, False, False),
    "olmo": (_olmo, False, False),
    "olmo2": (_olmo2, False, False),
    "olmo3": (_olmo3, False, False),
    "granite": (_granite, False, True),
    "smollm3": (_smollm3, True, False),
    "stablelm": (_stablelm, False, False),
    "starcoder2": (_starcoder2, True, False),
    "gpt_neox": (_gpt_neox, False, False),
    "cohere": (_cohere, True, False),
    "cohere2": (_cohere2, True, False),
    "glm": (_glm, False, False),
    "glm4": (_glm4, False, False),
    "nemotron": (_nemotron, False, False),
    "arcee": (_arcee, False, False),
    "helium": (_helium, False, False),
    "seed_oss": (_seed, False, False),
    "mixtral": (_mixtral, False, False),
    "qwen3_moe": (_qwen3_moe, False, False),
    "qwen2_moe": (_qwen2_moe, False, False),
    "olmoe": (_olmoe, False, False),
}
"""model_type -> (reader of one layer, tied embeddings unless written, embedding multiplied by a number)."""
TOWERS = {"gemma3": "gemma3_text"}
"""Families that see images with a SigLIP tower, and the family of their text model."""
SIZES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208},
}
"""Sizes that configs on the hub leave to the configuration class."""
NONE_MEANS_NONE = ("attn_logit_softcapping", "sliding_window")
"""Keys for which null switches something off, where leaving them out takes the default."""
HEAD_DIM = {"gemma": 256, "gemma2": 256, "gemma3_text": 256, "qwen3": 128, "glm": 128, "glm4": 128, "helium": 128,
            "seed_oss": 128, "ministral3": 128}  # fmt: skip
"""Width of a head where the config does not say and it is not hidden / heads."""
OWN_HEADS = ("gpt_neox", "stablelm", "olmoe")
"""Families that take hidden / heads whatever the config says."""
