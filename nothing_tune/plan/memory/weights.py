"""What stays on the GPU between steps: weights, adapters, gradients, optimizer states. Pure."""

from __future__ import annotations

from nothing_tune.plan.architecture import Linear, Shape, Unlisted
from nothing_tune.plan.architecture.adapters import router_parameters, saved, shared_matrices, trained
from nothing_tune.plan.memory.setting import Setting
from nothing_tune.plan.memory.tape import ROUND

STATES: dict[str, tuple[float, str, int]] = {
    "adamw_torch": (2, "own", 1),
    "adamw_torch_fused": (2, "own", 0),
    "adamw_apex_fused": (2, "float32", 0),
    "adafactor": (0, "factored", 0),
    "adamw_bnb_8bit": (2, "8bit", 0),
    "adamw_8bit": (2, "8bit", 0),
    "paged_adamw": (2, "paged", 0),
    "paged_adamw_32bit": (2, "paged", 0),
    "paged_adamw_8bit": (2, "paged8", 0),
    "lion_32bit": (1, "float32", 0),
    "lion_8bit": (1, "8bit", 0),
    "paged_lion_32bit": (1, "paged", 0),
    "paged_lion_8bit": (1, "paged8", 0),
    "ademamix": (3, "float32", 0),
    "ademamix_8bit": (3, "8bit", 0),
    "rmsprop": (1, "own", 1),
    "rmsprop_bnb_8bit": (1, "8bit", 0),
    "rmsprop_bnb_32bit": (1, "float32", 0),
    "adagrad": (1, "own", 1),
    "sgd": (0, "own", 0),
}
"""transformers' OptimizerNames -> (tensors of a weight's size that it keeps, their type, tensors of that size in a step).

`own` is the weight's type (torch.optim: zeros_like), 8bit one byte and a float32 scale for 256 (bitsandbytes 0.50), paged lies
in memory that CUDA moves to the host under pressure and that PyTorch's allocator does not count. torch's own optimizers work
on all weights at once (foreach) and hold one such list more; the fused one holds none.
"""
SMALL = 4096
"""Weights of fewer elements keep 32-bit states in an 8-bit optimizer (bitsandbytes' min_8bit_size)."""
PAGED_FROM = 100_000
"""Weights of fewer elements keep their states on the GPU in a paged optimizer (bitsandbytes, get_state_buffer)."""


def up(size: float) -> int:
    """`size` as PyTorch's allocator rounds it."""
    return -(-int(size) // ROUND) * ROUND


def weight_bytes(shape: Shape, set_: Setting) -> int:
    """Bytes of the base model as it is loaded.

    Quantised are the matrices of the layers. The embedding, the output layer (tied or not), norms, biases and experts, which
    are 3-D parameters in transformers 5, stay in the model's type (transformers/quantizers/base.get_keys_to_not_convert).
    """
    total = up(shape.embedding * set_.width) + (up(shape.output * set_.width) if not shape.tied else 0)
    total += shape.other * set_.width
    for lin in shape.linears:
        total += lin.count * _matrix(lin, set_) + up(lin.rows * set_.width) * lin.count * lin.bias
    return total


def _matrix(lin: Linear, set_: Setting) -> int:
    if lin.parameter or lin.name in set_.skip or not set_.quant:
        return lin.weights * set_.width if lin.parameter else up(lin.weights * set_.width)
    if set_.quant == "8bit":
        return up(lin.weights) + up(lin.rows * 4)
    scales = -(-lin.weights // set_.blocksize)
    packed = up((lin.weights + 1) // 2) + up(16 * 4)  # and the 16 values of the code
    if not set_.nested:
        return packed + up(scales * 4)
    return packed + up(scales) + up(-(-scales // 256) * 4) + up(256 * 4) + ROUND


def trainable(shape: Shape, set_: Setting) -> list[tuple[int, int, int]]:
    """What trains, as `(elements of one, bytes of an element, how many)`."""
    made, out = set_.method, []
    if made is None:
        out.append((shape.embedding, set_.width, 1 if shape.tied else 2))
        for lin in shape.linears:
            if not lin.share:
                continue
            whole = lin.weights
            out.append((whole, set_.width, lin.count))
            if lin.bias:
                out.append((lin.rows, set_.width, lin.count))
        norms = max(shape.other // shape.hidden, 1)
        out.append((shape.other // norms, set_.width, norms))
        return out
    for lin in shape.linears:
        if lin.name not in made.targets:
            continue
        rank = made.rank_of(lin.name)
        if made.name == "LORA":
            out += [(rank * lin.columns, set_.adapter, lin.count), (rank * lin.rows, set_.adapter, lin.count)]
            if made.dora:
                out.append((lin.rows, set_.magnitude, lin.count))
        elif made.name == "IA3":
            out.append((lin.columns if lin.name in made.feedforward else lin.rows, set_.adapter, lin.count))
        else:
            out += [(rank, set_.adapter, lin.count), (lin.rows, set_.adapter, lin.count)]
    out += [(numel, set_.adapter, 1) for numel in router_parameters(shape, made)]
    parts = trained(shape, made)
    if parts["saved"]:
        out.append((saved(shape, made), set_.saved, 1))
    for rows in made.tokens:
        if rows:
            out.append((rows * shape.hidden, set_.adapter, 1))
    if parts["bias"]:
        out.append((parts["bias"], set_.width, 1))
    return out


def adapter_bytes(shape: Shape, set_: Setting) -> int:
    """Bytes of what a PEFT method adds; 0 for full fine-tuning."""
    made = set_.method
    if made is None:
        return 0
    own = sum(up(numel * width) * count for numel, width, count in trainable(shape, set_))
    if made.bias != "none":
        own -= trained(shape, made)["bias"] * set_.width
    return own + shared_matrices(shape, made) * 4


def gradient_bytes(shape: Shape, set_: Setting) -> int:
    """Bytes of all gradients: what trains, in its type."""
    return sum(up(numel * width) * count for numel, width, count in trainable(shape, set_))


def optimizer_bytes(shape: Shape, set_: Setting) -> tuple[int, int]:
    """`(bytes that the optimizer keeps, bytes more while it steps)`. `Unlisted` for optimizers that are not known here."""
    if set_.optimizer not in STATES:
        raise Unlisted(f"what the optimizer {set_.optimizer} keeps is not listed")
    copies, kind, more = STATES[set_.optimizer]
    kept, step = 0.0, 0
    for numel, width, count in trainable(shape, set_):
        kept += count * _states(numel, width, copies, kind)
        if (
            kind == "factored"
        ):  # one weight after the other: its square, and the update; copies of 16-bit weights and gradients
            step = max(step, numel * 4 * (2 if width == 4 else 4))
        else:
            step += count * up(numel * width) * more
    if set_.optimizer.startswith(("adamw_torch", "rmsprop", "adagrad")) and "bnb" not in set_.optimizer:
        kept += sum(count for _, _, count in trainable(shape, set_)) * (ROUND if "fused" in set_.optimizer else 0)
    return int(kept), step


def _states(numel: int, width: int, copies: float, kind: str) -> float:
    if kind == "factored":  # a row's and a column's mean, in float32
        return 2 * up(4 * numel**0.5) if numel > 1 else ROUND
    if kind == "paged" or kind == "paged8":
        if numel >= PAGED_FROM:
            return up(-(-numel // 256) * 4) * copies if kind == "paged8" else 0
        kind = "8bit" if kind == "paged8" else "float32"
    if kind == "8bit" and numel >= SMALL:
        return copies * (up(numel) + up(-(-numel // 256) * 4))
    return copies * up(numel * (width if kind == "own" else 4))
