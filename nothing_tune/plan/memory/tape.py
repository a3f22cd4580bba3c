"""A training step written down in bytes: what each operation allocates, what autograd keeps, what the backward pass frees.

The rules are PyTorch's (torch 2.13: derivatives.yaml, autograd/engine.cpp, autocast_mode.cpp, read 2026-11-21), not a fit:
a tensor lives while something refers to it; an operation that trains keeps the inputs its derivative needs; the backward
pass visits operations newest first, holds the gradient of the output while it makes those of the inputs, then lets go of
what was kept; the second gradient of the same tensor is added in place. Python's own reference counts do the freeing, so
a layer is written here as it is in transformers, locals included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

ROUND = 512
"""Bytes that PyTorch's CUDA allocator rounds every tensor up to (CUDACachingAllocator, kMinBlockSize)."""
ACTIVATIONS, GRADIENTS, LOGITS = "activations", "gradients", "logits"


class Memory:
    """Bytes that are allocated now, by kind, and what they were when there were the most."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {ACTIVATIONS: 0, GRADIENTS: 0, LOGITS: 0}
        self.total = 0
        self.peak = 0
        self.at_peak = dict(self.live)

    def add(self, kind: str, size: int) -> None:
        """Counts `size` bytes in (or out, below zero), and remembers the most there ever was."""
        self.live[kind] += size
        self.total += size
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, dict(self.live)

    def mark(self) -> None:
        """Forgets the peak: from here on a new one is looked for."""
        self.peak, self.at_peak = self.total, dict(self.live)


class Storage:
    """Bytes of one tensor, allocated while this object lives."""

    __slots__ = ("kind", "memory", "size")

    def __init__(self, memory: Memory, size: int, kind: str = ACTIVATIONS) -> None:
        self.memory, self.kind, self.size = memory, kind, -(-size // ROUND) * ROUND
        memory.add(kind, self.size)

    def __del__(self) -> None:
        self.memory.add(self.kind, -self.size)


Gradients = Callable[[Storage], "list[Storage | None]"]


class Node:
    """One operation of the backward pass: whom its gradients go to, and what it keeps until then."""

    __slots__ = ("grad", "inputs", "kept", "leaf", "run")

    def __init__(self, inputs: Sequence[Node | None], run: Gradients | None, kept: tuple[Storage | None, ...]) -> None:
        self.inputs, self.run, self.kept = tuple(inputs), run, kept
        self.grad: Storage | None = None
        self.leaf = False


class Tensor:
    """A tensor: elements, bytes of one element, its storage (None for weights, counted elsewhere), and its node."""

    __slots__ = ("node", "numel", "storage", "width")

    def __init__(self, numel: int, width: int, storage: Storage | None, node: Node | None) -> None:
        self.numel, self.width, self.storage, self.node = numel, width, storage, node

    @property
    def bytes(self) -> int:
        """Size of the tensor."""
        return self.numel * self.width


class Tape:
    """Records the forward pass of a piece of a model and plays its backward pass.

    Args:
        grad: Whether autograd records at all; off in the first pass over a layer that is checkpointed.
        amp: Bytes of autocast's type (2); 0 without autocast.
        accumulate: Whether gradients exist already (a later micro batch, or DDP's buckets): new ones are added and freed.
    """

    def __init__(self, grad: bool = True, amp: int = 0, accumulate: bool = False) -> None:
        self.memory = Memory()
        self.grad, self.amp, self.accumulate = grad, amp, accumulate
        self.nodes: list[Node] = []
        self.gradients: list[Storage] = []
        self.casts: dict[str, Tensor] = {}
        self.trained: set[str] = set()
        self._weights: dict[str, Tensor] = {}

    def alloc(self, size: int, kind: str = ACTIVATIONS) -> Storage:
        """`size` bytes."""
        return Storage(self.memory, int(size), kind)

    def input(self, numel: int, width: int, trains: bool) -> Tensor:
        """A tensor from outside; `trains` where a gradient has to flow back to it."""
        node = Node((), None, ()) if trains and self.grad else None
        if node:
            self.nodes.append(node)
        return Tensor(numel, width, self.alloc(numel * width), node)

    def weight(self, name: str, numel: int, width: int, trains: bool) -> Tensor:
        """A weight, counted elsewhere; where it `trains`, its gradient stays."""
        if name not in self._weights:
            node = None
            if trains:
                self.trained.add(name)
            if trains and self.grad:
                node = Node((), None, ())
                node.leaf = True
            self._weights[name] = Tensor(numel, width, None, node)
        return self._weights[name]

    def trains(self, weight: Tensor) -> bool:
        """Whether `weight` trains, be it recorded now or not."""
        return any(self._weights.get(name) is weight for name in self.trained)

    def op(
        self,
        numel: int,
        width: int,
        inputs: Sequence[Tensor],
        kept: Sequence[Tensor | Storage | None] = (),
        gradients: Sequence[str] = (),
        temporary: int = 0,
        back: int = 0,
        alias: Tensor | None = None,
        kind: str = ACTIVATIONS,
    ) -> Tensor:
        """One operation.

        Args:
            numel: Elements of the output, `width` bytes each.
            inputs: What it reads and may pass gradients to.
            kept: What its derivative needs, `None` for the output itself; kept only where an input trains.
            gradients: For each input `new` (a gradient of its size) or `pass` (the output's gradient itself); `new` if empty.
            temporary: Bytes that exist while it runs; `back`: while its derivative is made.
            alias: The output is a view of this tensor and allocates nothing.
            kind: What the output counts as.
        """
        if alias is None:
            room = self.alloc(temporary, kind) if temporary else None
            storage: Storage | None = self.alloc(numel * width, kind)
            del room
        else:
            storage = alias.storage
        out = Tensor(numel, width, storage, None)
        if not self.grad or not any(x.node for x in inputs):
            return out
        held = tuple(storage if k is None else k.storage if isinstance(k, Tensor) else k for k in kept)
        how = tuple(gradients) or ("new",) * len(inputs)
        sizes = tuple(x.bytes if x.node else 0 for x in inputs)
        kinds = tuple(x.storage.kind if x.storage else kind for x in inputs)
        whom = tuple(x.node for x in inputs)

        def run(grad: Storage) -> list[Storage | None]:
            room = self.alloc(back, kind) if back else None
            made: list[Storage | None] = []
            for node, size, way, what in zip(whom, sizes, how, kinds, strict=True):
                made.append(None if node is None else grad if way == "pass" else self.alloc(size, what))
            del room
            return made

        out.node = Node(whom, run, held)
        self.nodes.append(out.node)
        return out

    def backward(self, last: Tensor) -> None:
        """The backward pass from `last`, whose gradient is made first; the nodes are used up."""
        if last.node is None:
            self.nodes.clear()
            return
        last.node.grad = self.alloc(last.bytes)
        self.walk()

    def walk(self) -> None:
        """Plays every node that a gradient has reached, newest first, and lets go of what each of them kept."""
        while self.nodes:
            node = self.nodes.pop()
            if node.run is None:
                self.entered = node.grad
                continue
            if node.grad is not None:
                grad, node.grad = node.grad, None
                for to, new in zip(node.inputs, node.run(grad), strict=True):
                    if to is None or new is None:
                        continue
                    if to.leaf:
                        self._leaf(to, new)
                    elif to.grad is None:
                        to.grad = new
                    new = None
                del grad
            node.kept, node.run = (), None

    def _leaf(self, to: Node, new: Storage) -> None:
        """A weight's gradient arrives: the first one stays, a later one is added to it."""
        if self.accumulate or to.grad is not None:
            return
        new.memory.live[new.kind] -= new.size
        new.memory.live[GRADIENTS] += new.size
        new.kind = GRADIENTS
        to.grad = new
        self.gradients.append(new)

    entered: Storage | None = None
    """The gradient that reached the tensor from outside."""
