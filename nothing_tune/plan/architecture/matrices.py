"""The matrices and the other parameters of a model, from its layers. Pure."""

from __future__ import annotations

from dataclasses import replace

from nothing_tune.plan.architecture.model import Block, Linear, Shape


def block_linears(shape_: Shape, block: Block) -> tuple[Linear, ...]:
    """The matrices of one layer, in order of use; `count` is 1, or the number of experts."""
    hidden, queries, keys = shape_.hidden, shape_.heads * shape_.head_dim, shape_.kv_heads * shape_.head_dim
    inward, outward = block.attention_bias
    names = list(block.names)
    out = []
    if block.fused_qkv:
        out.append(Linear(names.pop(0), queries + 2 * keys, hidden, 1, inward))
    else:
        out += [Linear(names.pop(0), rows, hidden, 1, inward) for rows in (queries, keys, keys)]
    out.append(Linear(names.pop(0), hidden, queries, 1, outward))
    if block.experts is None:
        out += _mlp(names, hidden, block.intermediate, block.gated, block.mlp_bias)
        return tuple(out)
    some = block.experts
    share = some.chosen / some.count
    out.append(Linear("experts.gate_up_proj", 2 * some.width, hidden, some.count, share=share, parameter=True))
    out.append(Linear("experts.down_proj", hidden, some.width, some.count, share=share, parameter=True))
    if some.shared:
        out += _mlp(["gate_proj", "up_proj", "down_proj"], hidden, some.shared, "gate", False)
        out.append(Linear("shared_expert_gate", 1, hidden, 1))
    return tuple(out)


def _mlp(names: list[str], hidden: int, width: int, gated: str, bias: bool) -> list[Linear]:
    if gated == "gate":
        sizes = [(width, hidden), (width, hidden), (hidden, width)]
    elif gated == "fused":
        sizes = [(2 * width, hidden), (hidden, width)]
    else:
        sizes = [(width, hidden), (hidden, width)]
    return [Linear(name, rows, columns, 1, bias) for name, (rows, columns) in zip(names, sizes, strict=True)]


def all_linears(base: Shape) -> tuple[Linear, ...]:
    """The matrices of all layers, alike ones together."""
    counted: dict[Linear, int] = {}
    for block, times in base.blocks:
        for linear in block_linears(base, block):
            one = replace(linear, count=1)
            counted[one] = counted.get(one, 0) + linear.count * times
    return tuple(replace(one, count=count) for one, count in counted.items())


NORMS = {"pre": 2, "post": 2, "sandwich": 4, "parallel": 1, "parallel-two": 2}
"""Norms of a layer over the residual stream, by `Block.order`."""


def norm_biases(base: Shape) -> int:
    """Parameters of the norms' biases."""
    first = base.blocks[0][0]
    total = base.hidden * first.norm_bias
    for block, times in base.blocks:
        own = NORMS[block.order] * base.hidden * block.norm_bias
        total += times * (own + (2 * base.head_dim if block.heads_norm == "head" and block.norm == "layer" else 0))
    return total


def other_parameters(base: Shape) -> int:
    """Parameters of norms and routers, and the output layer's bias."""
    total = (base.blocks[0][0].norm != "bare") * base.hidden + base.vocab * base.head_bias + norm_biases(base)
    for block, times in base.blocks:
        own = (block.norm != "bare") * NORMS[block.order] * base.hidden
        queries, keys = base.heads * base.head_dim, base.kv_heads * base.head_dim
        own += {"": 0, "head": 2 * base.head_dim, "all": queries + keys, "each": queries + keys}[block.heads_norm]
        if block.experts:
            own += block.experts.count * base.hidden
        total += own * times
    return total
