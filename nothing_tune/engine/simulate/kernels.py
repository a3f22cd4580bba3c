"""What CUDA's kernels do otherwise than the CPU's, as far as memory goes, for tensors that only pretend to exist.

A step on fake CPU tensors takes PyTorch's CPU ways: attention written out, dropout with a mask as wide as its input, autocast with
the CPU's lists. `Cuda` steps in where a GPU allocates otherwise. `Real` leaves all that away, for comparison with a real CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode

FLOAT32 = frozenset(
    {
        "layer_norm", "group_norm", "norm", "exp", "expm1", "log", "log2", "log10", "log1p", "pow", "rsqrt", "reciprocal",
        "softplus", "sinh", "cosh", "tan", "logsumexp", "cosine_similarity", "nll_loss", "kl_div", "l1_loss", "smooth_l1_loss",
        "huber_loss", "mse_loss", "binary_cross_entropy_with_logits",
    }
)  # fmt: skip
"""Functions that autocast runs in float32 on CUDA (PyTorch 2.13 manual, `Automatic Mixed Precision`, CUDA op reference)."""
FLOAT32_BY_DTYPE = frozenset({"softmax", "log_softmax", "sum", "prod", "cumsum", "cumprod"})
"""The same, where the caller names no dtype."""
HALF = (torch.float16, torch.bfloat16)
FLASH_WIDEST = 256
"""Widest head of PyTorch's FlashAttention kernels."""


@dataclass(frozen=True)
class Card:
    """What decides which attention kernel a GPU runs.

    Attributes:
        cuda: Whether it is an NVIDIA GPU at all.
        flash: Whether PyTorch's FlashAttention kernels run: compute capability 8.0 and later.
    """

    cuda: bool
    flash: bool


def card(gpu: dict[str, Any]) -> Card:
    """The card of a recipe's `gpu` section; one that says nothing counts as a recent one."""
    known = str(gpu.get("compute_capability") or "")
    flash = float(known) >= 8 if known.replace(".", "", 1).isdigit() else bool(gpu.get("bf16", True))
    return Card(cuda=gpu.get("kind", "cuda") == "cuda", flash=flash)


class Cuda(TorchFunctionMode):
    """Steps in for functions whose memory differs on CUDA.

    Attributes:
        values: What a number read from a tensor is: nothing is known, so the longest row.
    """

    def __init__(self, of: Card, values: int) -> None:
        super().__init__()
        self.card = of
        self.values = values
        self.ways: dict[str, Callable[..., Any]] = {
            "scaled_dot_product_attention": self._attention,
            "dropout": self._dropout,
            "softmax": self._softmax,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls `func` as CUDA would."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if torch.is_autocast_enabled("cpu"):
            if name in FLOAT32:
                args = tuple(_float(a) for a in args)
            elif name in FLOAT32_BY_DTYPE and args and _is_half(args[0]) and not _names_dtype(args, kwargs):
                kwargs = {**kwargs, "dtype": torch.float32}
        way = self.ways.get(name)
        if way is not None:
            return way(func, args, kwargs)
        if name in ("__bool__", "item", "__int__", "__float__", "__index__") and _unknown(args[0]):
            return self._number(name, args[0])
        return func(*args, **kwargs)

    def around(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """`forward` with this mode on also where autograd runs it again, which leaves function modes."""

        @functools.wraps(forward)
        def inside(*args: Any, **kwargs: Any) -> Any:
            if _get_current_function_mode() is not None:
                return forward(*args, **kwargs)
            with self:
                return forward(*args, **kwargs)

        return inside

    def _number(self, name: str, tensor: torch.Tensor) -> Any:
        if name == "__bool__" or tensor.dtype is torch.bool:
            return False
        return float(self.values) if tensor.is_floating_point() or name == "__float__" else self.values

    def _dropout(self, func: Any, args: Any, kwargs: Any) -> Any:
        """CUDA keeps a mask of one byte an element."""
        named = dict(zip(("input", "p", "train"), args, strict=False)) | kwargs
        train = named.get("train", named.get("training", True))
        if named.get("inplace") or not isinstance(named.get("p"), float | int) or not train or not named["p"]:
            return func(*args, **kwargs)
        return torch.ops.aten.native_dropout(named["input"], float(named["p"]), True)[0]

    def _softmax(self, func: Any, args: Any, kwargs: Any) -> Any:
        """CUDA reads float16 and writes float32 in one kernel."""
        values = args[0] if args else kwargs["input"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if values.dtype is torch.float16 and kwargs.get("dtype") is torch.float32 and dim is not None:
            return torch.ops.aten._softmax(values, dim, True)
        return func(*args, **kwargs)

    def _attention(self, func: Any, args: Any, kwargs: Any) -> Any:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        named = dict(zip(names, args, strict=False)) | kwargs
        query, key, value, mask = (named.get(n) for n in names[:4])
        if torch.is_autocast_enabled("cpu"):
            kind = torch.get_autocast_dtype("cpu")
            query, key, value = (t.to(kind) if t.dtype != kind else t for t in (query, key, value))
            if mask is not None and mask.is_floating_point():
                mask = mask.to(kind)
        grouped = bool(named.get("enable_gqa")) and query.shape[1] != key.shape[1]
        kernel = choose(self.card, query, key, value, mask, grouped)
        if kernel == "math":
            return _written_out(query, key, value, mask, named, grouped)
        if mask is not None and mask.dtype is torch.bool:
            mask = torch.empty(mask.shape, dtype=query.dtype, device=query.device)
        return Attention.apply(query, key, value, mask, kernel)


def choose(of: Card, query: Any, key: Any, value: Any, mask: Any, grouped: bool) -> str:
    """`flash`, `efficient` or `math`: PyTorch 2.13's choice (ATen/native/transformers/cuda/sdp_utils.cpp).

    FlashAttention takes no mask and half types only; the memory-efficient kernel takes no grouped heads; neither is there on
    other devices.
    """
    if not of.cuda:
        return "math"
    same = query.shape[-1] == key.shape[-1] == value.shape[-1]
    if of.flash and mask is None and same and query.shape[-1] <= FLASH_WIDEST and query.dtype in HALF:
        return "flash"
    return "math" if grouped else "efficient"


def _written_out(query: Any, key: Any, value: Any, mask: Any, named: dict[str, Any], grouped: bool) -> Any:
    """Attention as products and a softmax; half types are computed in float32 (`_scaled_dot_product_attention_math`)."""
    kind = query.dtype
    if kind in HALF:
        query, key, value = query.float(), key.float(), value.float()
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
    written = torch.ops.aten._scaled_dot_product_attention_math
    with torch.autocast("cpu", enabled=False):
        out = written(
            query, key, value, mask, float(named.get("dropout_p") or 0.0), bool(named.get("is_causal")),
            scale=named.get("scale"), enable_gqa=grouped,
        )[0]  # fmt: skip
    return out.to(kind)


class Attention(torch.autograd.Function):
    """Memory of a fused attention kernel, forward and backward, without its arithmetic.

    Forward: the result, written as (rows, tokens, heads, width), and one float32 a query for the softmax. Backward: the three
    gradients, a float32 copy of the queries' gradient that is summed into, one float32 a query, and with grouped heads the
    gradients of keys and values a head (flash-attention 2, csrc/flash_attn/flash_api.cpp; PyTorch's attention_backward.cu).
    """

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any, kernel: str) -> Any:
        """The result of the kernel's shape: (rows, heads, tokens, width)."""
        rows, heads, tokens, _ = query.shape
        out = query.new_empty(rows, tokens, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(rows, heads, _up(tokens, 1 if kernel == "flash" else 32), dtype=torch.float32)
        ctx.save_for_backward(query, key, value, mask, out, sums)
        ctx.kernel = kernel
        return out

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        """Gradients of the kernel's shapes."""
        query, key, value, _, _, _ = ctx.saved_tensors
        rows, heads, tokens, width = query.shape
        flash = ctx.kernel == "flash"
        d_query, d_key, d_value = (
            torch.empty(t.shape[0], t.shape[2], t.shape[1], t.shape[3], dtype=t.dtype).transpose(1, 2)
            for t in (query, key, value)
        )
        delta = query.new_empty(rows, heads, _up(tokens, 128 if flash else 32), dtype=torch.float32)
        summed = None
        if flash or query.dtype in HALF:
            summed = query.new_empty(
                rows, heads, _up(tokens, 128 if flash else 64), _up(width, 32), dtype=torch.float32
            )
        if key.shape[1] != heads:
            wide = [t.new_empty(rows, t.shape[2], heads, t.shape[3]) for t in (key, value)]
            del wide
        del delta, summed
        return d_query, d_key, d_value, None, None


class EightBit(torch.autograd.Function):
    """Memory of bitsandbytes' int8 product (bitsandbytes 0.50, `MatMul8bitLt`), without its arithmetic."""

    @staticmethod
    def forward(ctx: Any, rows: Any, weight: Any, scales: Any) -> Any:
        """The product; on the way the rows in float16 and int8, their scales, and the product in int32."""
        half = rows.to(torch.float16)
        held = [torch.empty(half.shape, dtype=torch.int8), torch.empty(half.shape[:-1], dtype=torch.float32)]
        shape = (*rows.shape[:-1], weight.shape[0])
        held.append(torch.empty(shape, dtype=torch.int32))
        ctx.save_for_backward(rows, weight, scales)
        return torch.empty(shape, dtype=rows.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        """The rows' gradient, from the weight in their type."""
        rows, weight, scales = ctx.saved_tensors
        whole = weight.to(rows.dtype).mul_(scales.unsqueeze(1).mul(1.0 / 127.0))
        return torch.matmul(grad.to(rows.dtype), whole), None, None


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in HALF


def _names_dtype(args: Any, kwargs: Any) -> bool:
    return kwargs.get("dtype") is not None or any(isinstance(a, torch.dtype) for a in args)


def _float(value: Any) -> Any:
    return value.float() if _is_half(value) else value


def _unknown(tensor: Any) -> bool:
    return (
        isinstance(tensor, torch.Tensor) and getattr(tensor, "fake_mode", None) is not None and tensor.constant is None
    )
