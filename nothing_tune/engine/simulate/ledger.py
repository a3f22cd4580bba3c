"""`Ledger`: every storage that a step allocates, while it lives, and what made up the peak.

It counts what `torch.cuda.max_memory_allocated` counts: live storages, each rounded up to the caching allocator's block.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

BLOCK = 512
"""Bytes that the CUDA caching allocator rounds a request up to (`kMinBlockSize`, c10/cuda/CUDACachingAllocator.cpp)."""
KINDS = ("weights", "adapters", "gradients", "optimizer", "activations", "logits")
"""What a byte is for, in the order of the plan's page."""


def rounded(size: int) -> int:
    """`size` bytes as the allocator hands them out."""
    return -(-size // BLOCK) * BLOCK


class Ledger(TorchDispatchMode):
    """Counts live storages while it is active; tensors made before are told to it by `own`.

    Attributes:
        now: Bytes alive.
        peak: Most bytes that were ever alive since the last `restart`.
        at_peak: Bytes by kind at that moment.
        kind: What new storages are for, until told otherwise.
        wide: Last dimension that marks a tensor as logits; 0 for none.
        cuda: Whether buffers count that CUDA's kernels hold while they run.
        summing: Whether autograd goes back: what it sums it then sums in place, as it does where nobody counts; a mode such as
            this one makes it go another way (`can_accumulate_inplace`, torch/csrc/autograd/input_buffer.cpp).
    """

    def __init__(self, wide: int = 0, cuda: bool = True) -> None:
        super().__init__()
        self.cuda = cuda
        self.summing = False
        self.now = 0
        self.peak = 0
        self.kind = "activations"
        self.wide = wide
        self.totals = dict.fromkeys(KINDS, 0)
        self.at_peak = dict(self.totals)
        self._alive: dict[int, tuple[int, str, weakref.ref[Any]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Runs the operator, then counts what it has made."""
        out = torch.ops.aten.add_.Tensor(*args) if self.summing and _sum(func, args) else func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self._see(out)
        else:
            for leaf in tree_iter(out):
                if isinstance(leaf, torch.Tensor):
                    self._see(leaf)
        if not self.cuda:
            return out
        if func is _GEMM_4BIT:
            self.passing(_dequantized(args))
        elif func is _SOFTMAX_BACKWARD:
            self.passing([args[0].nbytes])  # its gradient times its result (ATen/native/cuda/SoftMax.cu)
        return out

    def _see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        known = self._alive.get(storage._cdata)
        size = rounded(storage.nbytes())
        if known is None:
            kind = self.kind
            if kind == "activations" and self.wide and tensor.dim() > 1 and tensor.shape[-1] == self.wide:
                kind = "logits"
            self._enter(storage, size, kind)
        elif size != known[0]:
            self._count(known[1], size - known[0])
            self._alive[storage._cdata] = (size, *known[1:])

    def _enter(self, storage: Any, size: int, kind: str) -> None:
        key = storage._cdata
        self._alive[key] = (size, kind, weakref.ref(storage, lambda _: self._leave(key)))
        self._count(kind, size)

    def _leave(self, key: int) -> None:
        size, kind, _ = self._alive.pop(key)
        self.now -= size
        self.totals[kind] -= size

    def _count(self, kind: str, size: int) -> None:
        self.now += size
        self.totals[kind] += size
        if self.now > self.peak:
            self.peak = self.now
            self.at_peak = dict(self.totals)

    def own(self, tensor: torch.Tensor, kind: str) -> None:
        """Counts `tensor`, alive or new, as `kind`; twice is once."""
        storage = tensor.untyped_storage()
        known = self._alive.get(storage._cdata)
        if known is None:
            self._enter(storage, rounded(storage.nbytes()), kind)
        elif known[1] != kind:
            self._alive[storage._cdata] = (known[0], kind, known[2])
            self.totals[known[1]] -= known[0]
            self.totals[kind] += known[0]

    def passing(self, sizes: list[int]) -> None:
        """Counts buffers of `sizes` bytes that a kernel held while it ran and has given back."""
        extra = sum(map(rounded, sizes))
        if self.now + extra > self.peak:
            self.peak = self.now + extra
            self.at_peak = {**self.totals, self.kind: self.totals[self.kind] + extra}

    def restart(self) -> None:
        """Forgets the peak: it is what is alive now."""
        self.peak, self.at_peak = self.now, dict(self.totals)

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """What is made meanwhile is of `kind`."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before


def _sum(func: Any, args: Any) -> bool:
    """Whether this is autograd adding up two gradients of one tensor."""
    if func is not torch.ops.aten.add.Tensor or len(args) != 2 or torch.is_grad_enabled():
        return False
    one, other = args
    alike = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.shape == other.shape
    return alike and one.dtype == other.dtype and one.dim() > 0


def _gemm_4bit() -> Any:
    """The 4-bit product of bitsandbytes 0.50 and later; None where there is none."""
    try:
        import bitsandbytes  # noqa: F401  (registers it)

        return torch.ops.bitsandbytes.gemm_4bit.default
    except (ImportError, AttributeError):
        return None


_GEMM_4BIT = _gemm_4bit()
_SOFTMAX_BACKWARD = torch.ops.aten._softmax_backward_data.default


def _dequantized(args: Any) -> list[int]:
    """Bytes that the product holds on CUDA beside its result, for more rows than its fused kernel takes.

    The weight in the type of the input, and, where the scales are quantised too, those twice in float32 (bitsandbytes 0.50,
    backends/cuda/ops.py: `_dequant_linear_fallback`). The fused kernel, for few rows on some cards, holds none.
    """
    rows, shape, scales = args[0], args[2], args[3]
    weight = shape[0] * shape[1]
    nested = scales.numel() * 256 < weight
    blocks = -(-weight // int(args[4]))
    return [weight * rows.element_size(), *([4 * blocks] * 2 if nested else [])]
