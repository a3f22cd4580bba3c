"""Shapes from config.json: exact against the models that transformers builds, and what autograd keeps of a layer, byte for byte."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from nothing_tune.plan.architecture import Unlisted, adapter_parameters, adapts_experts, shape
from nothing_tune.plan.architecture.families import FAMILIES
from nothing_tune.plan.memory.layers import Layers
from nothing_tune.plan.memory.setting import setting
from nothing_tune.plan.memory.tape import Tape
from nothing_tune.plan.model import Plan


def config(family: str, *sizes: int, **more: Any) -> dict[str, Any]:
    """A config.json: hidden, layers, heads, key and value heads, intermediate, vocabulary."""
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    )
    return {"model_type": family, **dict(zip(names, sizes, strict=True)), **more}


TIED = {"tie_word_embeddings": True}
MOE = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768}
GEMMA3_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "image_size": 896,
}
TOTALS = (
    (config("llama", 3072, 28, 24, 8, 8192, 128256, head_dim=128, **TIED), 3_212_749_824),
    (config("llama", 2048, 16, 32, 8, 8192, 128256, head_dim=64, **TIED), 1_235_814_400),
    (config("llama", 4096, 32, 32, 32, 11008, 32000), 6_738_415_616),
    (config("llama", 4096, 32, 32, 8, 14336, 128256), 8_030_261_248),
    (config("mistral", 4096, 32, 32, 8, 14336, 32000), 7_241_732_096),
    (config("qwen2", 3584, 28, 28, 4, 18944, 152064), 7_615_616_512),
    (config("qwen2", 896, 24, 14, 2, 4864, 151936, **TIED), 494_032_768),
    (config("qwen3", 4096, 36, 32, 8, 12288, 151936, head_dim=128), 8_190_735_360),
    (config("qwen3_moe", 2048, 48, 32, 4, 6144, 151936, head_dim=128, **MOE), 30_532_122_624),
    (config("gemma2", 2304, 26, 8, 4, 9216, 256000, head_dim=256), 2_614_341_888),
    (config("gemma3_text", 1152, 26, 4, 1, 6912, 262144, head_dim=256), 999_885_952),
    (config("phi3", 3072, 32, 32, 32, 8192, 32064), 3_821_079_552),
    (config("mixtral", 4096, 32, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2), 46_702_792_704),
    (config("starcoder2", 3072, 30, 24, 2, 12288, 49152), 3_030_371_328),
    (config("gpt_neox", 2048, 16, 8, 8, 8192, 50304), 1_011_781_632),
    (
        {"model_type": "gemma3", "vision_config": GEMMA3_VISION,
         "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "model_type": "gemma3_text"}},
        4_300_079_472,
    ),
)  # fmt: skip
"""config.json as on huggingface.co -> parameters as its page (safetensors) states them."""


def test_known_totals() -> None:
    for given, total in TOTALS:
        assert shape(given).parameters == total, given["model_type"]


def test_active_parameters_of_a_mixture() -> None:
    model = shape(TOTALS[8][0])
    assert 2.9e9 < model.active_parameters < 3.4e9  # Qwen3-30B-A3B
    dense = shape(TOTALS[0][0])
    assert dense.active_parameters == dense.parameters - dense.other


def test_facts_of_a_recipe_are_enough() -> None:
    facts = {k: v for k, v in TOTALS[0][0].items() if k != "model_type"} | {
        "architecture": "LlamaForCausalLM",
        "source": "x",
    }
    assert shape(facts) == shape(TOTALS[0][0])


def test_what_is_not_known_is_said() -> None:
    sizes = (64, 2, 4, 2, 128, 100)
    for given, why in (
        (config("mamba", *sizes), "the family mamba is not listed"),
        ({}, "the family of this model is not listed"),
        ({**config("llama", *sizes), "hidden_size": None}, "the model's config gives no hidden_size"),
        ({**config("llama", *sizes), "num_key_value_heads": 3}, "4 heads cannot share 3 key and value heads evenly"),
        ({"model_type": "llava", "text_config": {}}, "the family llava is not listed"),
    ):
        with pytest.raises(Unlisted) as caught:
            shape(given)
        assert str(caught.value) == why


def test_adapters_count_as_peft_builds_them() -> None:
    llama = shape(TOTALS[0][0])
    lora = {"peft_type": "LORA", "r": 32, "target_modules": "all-linear"}
    assert adapter_parameters(llama, lora) == 48_627_712
    assert adapter_parameters(llama, None) == llama.parameters
    assert adapter_parameters(llama, {"peft_type": "OFT"}) is None
    experts = shape(TOTALS[8][0])
    assert (
        adapter_parameters(experts, {**lora, "lora_dropout": 0.05})
        == adapter_parameters(experts, lora)
        == 1_993_015_296
    )
    assert adapts_experts(experts, {**lora, "lora_dropout": 0.05})
    assert adapts_experts(llama, {"target_parameters": ["mlp.experts.down_proj"]})
    for peft in (
        {**lora, "target_modules": ["q_proj"]},
        {**lora, "peft_type": "IA3"},
        {"target_modules": ["nowhere"]},
        None,
    ):
        assert not adapts_experts(experts, peft)
    assert not adapts_experts(llama, lora)
    assert adapter_parameters(experts, {**lora, "target_modules": ["q_proj"], "lora_dropout": 0.05}) == 48 * 32 * 6144


VARIANTS: tuple[dict[str, Any], ...] = (
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 2, "tie_word_embeddings": True},
    {
        "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True,
        "use_qk_norm": True, "qk_layernorm": True, "use_qkv_bias": True, "use_parallel_residual": True, "use_bias": False,
    },
)  # fmt: skip
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 112,
    "vocab_size": 300,
}
METHODS: tuple[dict[str, Any], ...] = (
    {"peft_type": "LORA", "r": 8, "target_modules": "all-linear"},
    {
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["q_proj", "o_proj", "down_proj", "up_proj", "gate_proj"],
        "bias": "all",
    },
    {
        "peft_type": "LORA",
        "r": 4,
        "target_modules": "all-linear",
        "modules_to_save": ["lm_head"],
        "trainable_token_indices": [1],
    },
    {"peft_type": "LORA", "r": 8, "use_dora": True, "target_modules": ["o_proj", "dense"]},
    {"peft_type": "VERA", "r": 16, "target_modules": ["v_proj", "qkv_proj", "query_key_value"]},
    {"peft_type": "IA3", "target_modules": ["k_proj", "o_proj", "dense"], "feedforward_modules": ["o_proj"]},
)


def built(family: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    """`(config, what is written in its config.json)` of a small model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    given = {**SMALL, "pad_token_id": 0, **more}
    if family in ("helium", "ministral"):
        given["head_dim"] = 16
    return CONFIG_MAPPING[family](**given), {"model_type": family, **given}


@pytest.mark.engine
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_parameters_are_those_of_the_model(family: str) -> None:
    """Total, and every matrix by name, shape, bias and number, whether the config is complete or as short as on the hub."""
    import torch
    from transformers import AutoModelForCausalLM

    seen = 0
    for variant in VARIANTS:
        made, short = built(family, **variant)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(made)
        head = model.get_output_embeddings()
        wanted: dict[tuple[str, int, int, bool], int] = {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                key = (name.rsplit(".", 1)[-1], module.out_features, module.in_features, module.bias is not None)
                wanted[key] = wanted.get(key, 0) + 1
        for given in (made.to_dict(), short):
            got = shape(given)
            assert got.parameters == sum(p.numel() for p in model.parameters())
            assert {(x.name, x.rows, x.columns, x.bias): x.count for x in got.linears if not x.parameter} == wanted
            seen += 1
    assert seen == 6


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "phi", "phi3", "gpt_neox", "gemma2", "qwen2_moe", "qwen3_moe", "mixtral"]
)
def test_trainable_parameters_are_those_that_peft_makes(family: str) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    compared = 0
    for method in METHODS:
        made, _ = built(family, num_key_value_heads=2)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(made)
        counted = adapter_parameters(shape(made.to_dict()), method)
        try:
            wrapped = peft.get_peft_model(model, peft.get_peft_config({**method, "task_type": "CAUSAL_LM"}))
        except (ValueError, RuntimeError):
            continue
        if counted is not None:
            assert counted == sum(p.numel() for p in wrapped.parameters() if p.requires_grad), method
            compared += 1
    assert compared >= 2


def kept_by_autograd(family: str, attention: str, dtype: str, lora: bool) -> tuple[int, int]:
    """`(bytes that torch keeps of the second layer for its backward pass, bytes that the tape says)`, on a CPU in bf16 autocast."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    rows, length = 2, 64
    sizes = {"hidden_size": 256, "intermediate_size": 640, "vocab_size": 512, "head_dim": 64, "num_key_value_heads": 2}
    made, _ = built(family, **sizes, num_hidden_layers=3, attn_implementation=attention)
    model = AutoModelForCausalLM.from_config(made, dtype=getattr(torch, dtype), attn_implementation=attention)
    peft = {"r": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} if lora else None
    if peft:
        model = get_peft_model(model, LoraConfig(**peft))
    model.train()
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    base = model.get_base_model() if lora else model
    layers = getattr(base, base.base_model_prefix).layers
    inside = [False]
    layers[1].register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
    layers[1].register_forward_hook(lambda *_: inside.__setitem__(0, False))
    before: set[int] = set()
    found: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if inside[0] and storage._cdata not in own | before:
            found[storage._cdata] = storage
        elif not inside[0]:
            before.add(storage._cdata)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(input_ids=torch.ones(rows, length, dtype=torch.long), use_cache=False)
    assert out.logits is not None
    empty: dict[str, Any] = {k: {} for k in ("gpu", "values", "data", "tracking", "monitor", "checkpoint")}
    plan = Plan(
        name="p", quantization=None, peft=peft and {"peft_type": "LORA", **peft}, trainable_dtype=None,
        training={"bf16": True}, model={"init": {"dtype": dtype, "attn_implementation": attention}}, **empty,
    )  # fmt: skip
    model_shape = shape(made.to_dict())
    set_ = setting(model_shape, plan)
    tape = Tape(amp=2)
    x = tape.input(rows * length * 256, set_.width, True)
    Layers(tape, model_shape, model_shape.blocks[0][0], set_, rows, length).layer(x)
    mine = {id(s): s.size for node in tape.nodes for s in node.kept if s is not None}
    return sum(s.nbytes() for s in found.values()), sum(mine.values())


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "olmo2",
        "granite",
        "smollm3",
        "phi3",
        "cohere",
    ],
)
def test_a_layer_keeps_what_autograd_keeps(family: str) -> None:
    """Within 0.5 % (vectors of one row are left out). Families with LayerNorm differ on a CPU, whose autocast leaves it alone."""
    warnings.simplefilter("ignore")
    seen = 0
    for lora, dtype in ((True, "bfloat16"), (False, "bfloat16"), (False, "float32")):
        for attention in ("sdpa", "eager"):
            if family == "gemma2" and attention == "sdpa":
                continue  # it caps its scores
            real, mine = kept_by_autograd(family, attention, dtype, lora)
            assert mine == pytest.approx(real, rel=0.005), (lora, dtype, attention)
            seen += 1
    assert seen == (3 if family == "gemma2" else 6)
