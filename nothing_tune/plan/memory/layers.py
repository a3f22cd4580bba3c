"""Decoder layers as transformers 5.23 computes them, on a tape that counts bytes instead of computing.

Each function has the locals of the module it stands for, since what a local refers to stays allocated.
"""

from __future__ import annotations

from nothing_tune.plan.architecture import Block, Experts, Linear, Shape, block_linears
from nothing_tune.plan.memory.setting import Setting
from nothing_tune.plan.memory.tape import Tape, Tensor

SMALL = 8
"""Bytes of a 64-bit index."""


class Layers:
    """One decoder layer of `block` on `tape`, for `rows` x `length` tokens."""

    def __init__(self, tape: Tape, shape: Shape, block: Block, set_: Setting, rows: int, length: int) -> None:
        self.tape, self.shape, self.block, self.set = tape, shape, block, set_
        self.rows, self.length, self.tokens = rows, length, rows * length
        self.linears = list(block_linears(shape, block))
        self.full = set_.method is None
        self.bias = bool(set_.method and set_.method.bias == "all")

    # elementwise

    def cast(self, x: Tensor, width: int) -> Tensor:
        """`x.to(dtype)`: itself where it has that type."""
        return x if x.width == width else self.tape.op(x.numel, width, [x])

    def scale(self, x: Tensor) -> Tensor:
        """A number times `x`, or a copy: nothing is kept."""
        return self.tape.op(x.numel, x.width, [x])

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """a + b, in the wider type; gradients pass through where the type stays."""
        width = max(a.width, b.width)
        how = ["pass" if x.width == width else "new" for x in (a, b)]
        return self.tape.op(max(a.numel, b.numel), width, [a, b], gradients=how)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        """a * b, each kept where the other trains."""
        kept = [b] * bool(a.node) + [a] * bool(b.node)
        return self.tape.op(max(a.numel, b.numel), max(a.width, b.width), [a, b], kept)

    def by_vector(self, x: Tensor, vector: Tensor) -> Tensor:
        """x times a vector over its last dimension: the vector's gradient is a product that is summed."""
        width = max(x.width, vector.width)
        kept = [x] if vector.node else []
        return self.tape.op(x.numel, width, [x, vector], kept, back=x.numel * width if vector.node else 0)

    def dropout(self, x: Tensor, share: float) -> Tensor:
        """CUDA's fused dropout keeps a mask of one byte an element."""
        if not share:
            return x
        mask = self.tape.alloc(x.numel) if self.tape.grad and x.node else None
        return self.tape.op(x.numel, x.width, [x], [mask] if mask else [], temporary=0 if mask else x.numel)

    # norms

    def norm(self, name: str, x: Tensor, features: int, kind: str | None = None) -> Tensor:
        """A norm over the last `features`."""
        kind, tape = kind or self.block.norm, self.tape
        weight = tape.weight(name, features, self.set.width, self.full)
        if kind == "layer":
            x32 = self.cast(x, 4) if self.set.amp else x
            small = tape.alloc(8 * x.numel // features) if tape.grad and x32.node else None
            return tape.op(x.numel, x32.width, [x32, weight], [x32, small])
        h = self.cast(x, 4)
        if kind == "bare":
            return self.cast(tape.op(h.numel, 4, [h], [h]), x.width)
        if kind == "layer32":
            mean = tape.op(h.numel // features, 4, [h], back=h.bytes)
            centred, h = self.add(h, mean), self.add(h, mean)
            square = tape.op(h.numel, 4, [centred], [centred], back=h.bytes)
            del centred
        else:
            square = tape.op(h.numel, 4, [h], [h], back=h.bytes)
        variance = tape.op(h.numel // features, 4, [square])
        del square
        root = tape.op(variance.numel, 4, [variance], [None])
        h = tape.op(h.numel, 4, [h, root], [h, root], back=h.bytes if h.node else 0)
        if kind == "rms":
            return self.by_vector(self.cast(h, x.width), weight)
        return self.cast(self.by_vector(h, weight), x.width)

    # matrices

    def matmul(self, x: Tensor, weight: Tensor, rows: int, columns: int, bias: Tensor | None = None) -> Tensor:
        """x @ weight.T under autocast: both are cast to its type, a trained float32 weight once a pass."""
        tape, amp = self.tape, self.set.amp
        if amp:
            x, weight = self.cast(x, amp), self._cast_weight(weight, amp)
        kept = [weight] * bool(x.node) + [x] * bool(weight.node)
        inputs = [x, weight] + ([bias] if bias and bias.node else [])
        return tape.op(x.numel // columns * rows, weight.width, inputs, kept)

    def _cast_weight(self, weight: Tensor, width: int) -> Tensor:
        if weight.width == width:
            return weight
        if not self.tape.trains(weight):
            return self.cast(weight, width)
        key = str(id(weight))
        if key not in self.tape.casts:
            self.tape.casts[key] = self.cast(weight, width)
        return self.tape.casts[key]

    def base(self, x: Tensor, lin: Linear) -> Tensor:
        """The frozen or trained matrix itself."""
        tape, set_ = self.tape, self.set
        if set_.quant == "4bit" and lin.name not in set_.skip:
            width = x.width
            x = self.cast(x, set_.compute)
            room = lin.weights * set_.compute
            out = tape.op(x.numel // lin.columns * lin.rows, set_.compute, [x], temporary=room, back=room)
            return self.cast(out, width)
        if set_.quant == "8bit" and lin.name not in set_.skip:
            numel = x.numel // lin.columns * lin.rows
            room = x.numel * 3 + numel * 4 + (numel * 2 if x.width != 2 else 0)
            return tape.op(numel, x.width, [x], [x], temporary=room, back=lin.weights * x.width)
        weight = tape.weight(lin.name, lin.weights, set_.width, self.full)
        bias = tape.weight(f"{lin.name}.bias", lin.rows, set_.width, self.full or self.bias) if lin.bias else None
        return self.matmul(x, weight, lin.rows, lin.columns, bias)

    def linear(self, x: Tensor, lin: Linear) -> Tensor:
        """A matrix with whatever adapter it has."""
        made = self.set.method
        if made is None or lin.name not in made.targets or lin.parameter:
            return self.base(x, lin)
        if made.name == "IA3":
            return self._ia3(x, lin, lin.name in made.feedforward)
        if made.name == "VERA":
            return self._vera(x, lin)
        return self._lora(x, lin)

    def _lora(self, x: Tensor, lin: Linear) -> Tensor:
        made, set_, tape = self.set.method, self.set, self.tape
        assert made is not None
        rank = made.rank_of(lin.name)
        result = self.base(x, lin)
        width = result.width
        if set_.quant == "4bit":
            result = self.scale(result)  # PEFT copies the result of a 4-bit layer
        if not set_.quant or not set_.amp:
            x = self.cast(x, set_.adapter)
        a = tape.weight(f"{lin.name}.A", rank * lin.columns, set_.adapter, True)
        b = tape.weight(f"{lin.name}.B", rank * lin.rows, set_.adapter, True)
        if made.dora:
            result = self._dora(x, lin, result, rank, a, b)
        else:
            low = self.matmul(self.dropout(x, made.dropout), a, rank, lin.columns)
            high = self.matmul(low, b, lin.rows, rank)
            del low
            delta = self.scale(high)
            del high
            result = self.add(result, delta if not set_.quant or set_.amp else self.cast(delta, width))
        return result if set_.quant and set_.amp else self.cast(result, width)

    def _dora(self, x: Tensor, lin: Linear, result: Tensor, rank: int, a: Tensor, b: Tensor) -> Tensor:
        """DoRA as peft/tuners/lora/dora.py has it: the merged weight is made anew to measure its columns."""
        made, set_, tape = self.set.method, self.set, self.tape
        assert made is not None
        base: Tensor | None = result
        if made.dropout:
            x, base = self.dropout(x, made.dropout), None
        eye = tape.alloc(lin.columns**2 * (set_.adapter + set_.amp))  # the identity, and its copy under autocast
        merged = tape.alloc(lin.weights * x.width)
        del eye
        frozen = Tensor(lin.weights, set_.compute if set_.quant == "4bit" else set_.width, None, None)
        if set_.quant:
            frozen.storage = tape.alloc(frozen.bytes)
        weight = self.cast(frozen, x.width)
        width = x.width * 2 + (4 if x.width == 2 and set_.amp else 0)
        del frozen
        room = tape.alloc(lin.weights * width)  # scaled, added to the weight, widened for its norm
        del room
        scale = tape.weight(f"{lin.name}.magnitude", lin.rows, set_.magnitude, True)
        low = self.matmul(x, a, rank, lin.columns)
        high = self.matmul(low, b, lin.rows, rank)
        if base is None:
            base = self.matmul(x, weight, lin.rows, lin.columns)
        first, second = self.by_vector(base, scale), self.by_vector(high, scale)
        out = self.add(first, self.scale(second))
        del first, second, merged, weight
        return self.add(result, out)

    def _ia3(self, x: Tensor, lin: Linear, inward: bool) -> Tensor:
        size = lin.columns if inward else lin.rows
        vector = self.tape.weight(f"{lin.name}.ia3", size, self.set.adapter, True)
        if inward:
            wide = self.cast(x, self.set.adapter)
            return self.base(self.cast(self.by_vector(wide, vector), x.width), lin)
        result = self.base(x, lin)
        return self.cast(self.by_vector(result, vector), result.width)

    def _vera(self, x: Tensor, lin: Linear) -> Tensor:
        made, set_, tape = self.set.method, self.set, self.tape
        assert made is not None
        result = self.base(x, lin)
        width = result.width
        d = tape.weight(f"{lin.name}.d", made.rank, set_.adapter, True)
        b = tape.weight(f"{lin.name}.b", lin.rows, set_.adapter, True)
        left = Tensor(made.rank * lin.columns, 4, None, None)
        right = Tensor(made.rank * lin.rows, 4, None, None)
        x = self.cast(x, set_.adapter)
        low = self.by_vector(self.matmul(self.dropout(x, made.dropout), left, made.rank, lin.columns), d)
        result = self.add(result, self.by_vector(self.matmul(low, right, lin.rows, made.rank), b))
        return self.cast(result, width)

    # attention

    def attention(self, x: Tensor) -> Tensor:
        """Projections, rotary positions, the attention itself, the output projection."""
        block, shape = self.block, self.shape
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        rest = list(self.linears)
        if block.fused_qkv:
            both = self.linear(x, rest.pop(0))
            q, k, v = (self.tape.op(self.tokens * n, both.width, [both], alias=both) for n in (queries, keys, keys))
            del both
        else:
            q, k, v = (self.linear(x, rest.pop(0)) for _ in range(3))
        if block.heads_norm:
            kind = "layer" if block.norm == "layer" else None
            features = {"head": shape.head_dim, "each": shape.head_dim}.get(block.heads_norm)
            q = self.norm("q_norm", q, features or queries, kind)
            k = self.norm("k_norm", k, features or keys, kind)
        q, k = self.rotate(q), self.rotate(k)
        how = {"eager": self.eager, "math": self.written_out}.get(self.set.attention, self.fused_attention)
        out = how(q, k, v)
        return self.linear(out, rest[0])

    def rotate(self, x: Tensor) -> Tensor:
        """Rotary positions: x cos + rotated x sin; cos and sin have the type of the residual stream."""
        share = self.block.rotary
        if not share:
            return x
        part = x
        if share < 1:
            part = self.tape.op(int(x.numel * share), x.width, [x], alias=x)
        width = max(x.width, self.set.width)
        straight = self.tape.op(part.numel, width, [part])
        turned = self.tape.op(part.numel, x.width, [part], temporary=part.bytes // 2, back=part.bytes)
        turned = self.tape.op(part.numel, width, [turned])
        out = self.add(straight, turned)
        if self.block.joined:
            out = self.tape.op(x.numel, width, [out, x])
        return out

    def fused_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """FlashAttention or PyTorch's sdpa: inputs, output and one number a head and token are kept."""
        tape, shape = self.tape, self.shape
        groups = shape.heads // shape.kv_heads
        window = self.block.window
        mask = self.set.attention == "sdpa" and (
            self.set.block_mask or self.set.padding or (window is not None and self.length > window)
        )
        if (mask or shape.head_dim > 256) and groups > 1 and self.set.attention == "sdpa":
            k, v = (tape.op(x.numel * groups, x.width, [x], back=x.bytes) for x in (k, v))
        if self.set.amp:
            q, k, v = (self.cast(x, self.set.amp) for x in (q, k, v))
        kept: list[Tensor | None] = [q, k, v, None]
        extra = tape.alloc(self.tokens * shape.heads * 4)
        held = [*kept, extra]
        if mask:
            held.append(tape.alloc(self.rows * self.length**2 * q.width))
        back = q.numel * 4 + (2 * q.numel * q.width if groups > 1 and not mask else 0)
        out = tape.op(q.numel, q.width, [q, k, v], held, back=back)
        return self.scale(out) if self.block.joined and not mask else out  # laid out by heads: copied to be by tokens

    def eager(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention written out: the scores of all pairs, in float32 after the softmax."""
        tape, shape, amp = self.tape, self.shape, self.set.amp
        pairs, groups = self.rows * shape.heads * self.length**2, shape.heads // shape.kv_heads
        if groups > 1:
            k, v = (tape.op(x.numel * groups, x.width, [x], back=x.bytes) for x in (k, v))
        elif self.rows > 1:
            v = self.scale(v)
        width, masked = q.width, max(amp or q.width, self.set.width)
        if amp:
            q, k = self.cast(q, amp), self.cast(k, amp)
        scores = tape.op(pairs, q.width, [q, k], [q, k])
        scores = self.scale(scores)
        if self.block.softcap:
            scores = self.scale(scores)
            scores = tape.op(pairs, scores.width, [scores], [None])
            scores = self.scale(scores)
        scores = tape.op(pairs, masked, [scores], gradients=["pass" if masked == scores.width else "new"])  # the mask
        scores = tape.op(pairs, 4, [self.cast(scores, 4)], [None], back=pairs * 4)  # CUDA's makes gradient x result
        scores = self.dropout(self.cast(scores, width), self.block.dropout[0])
        if amp:
            scores, v = self.cast(scores, amp), self.cast(v, amp)
        out = tape.op(q.numel, q.width, [scores, v], [scores, v])
        return self.scale(out)

    def written_out(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """PyTorch's last resort for sdpa (_scaled_dot_product_attention_math): all pairs, in float32."""
        tape, shape = self.tape, self.shape
        pairs, groups = self.rows * shape.heads * self.length**2, shape.heads // shape.kv_heads
        width = self.set.amp or q.width
        q, k, v = (self.cast(self.cast(x, width), 4) for x in (q, k, v))
        q, k = self.scale(q), self.scale(k)
        if groups > 1:
            k, v = (tape.op(x.numel * groups, 4, [x], back=x.bytes) for x in (k, v))
        scores = tape.op(pairs, 4, [q, k], [q, k])
        soft = tape.op(pairs, 4, [scores], [None], temporary=pairs, back=pairs * 4)
        del scores
        soft = tape.op(pairs, 4, [soft])
        return self.scale(self.cast(tape.op(q.numel, 4, [soft, v], [soft, v]), width))

    # the rest of a layer

    def activate(self, x: Tensor) -> Tensor:
        """The activation between the MLP's matrices; each keeps its input."""
        tape, name = self.tape, self.block.activation
        if name in ("gelu_new", "gelu_fast"):
            wide = self.cast(x, 4) if self.set.amp else x
            cube = tape.op(x.numel, wide.width, [wide], [wide], back=wide.bytes)
            inner = self.scale(self.add(x, self.scale(cube)))
            del cube, wide
            inner = tape.op(x.numel, inner.width, [inner], [None])
            return self.mul(self.scale(x), self.scale(inner))
        if name in ("relu2",):
            rectified = tape.op(x.numel, x.width, [x], [None])
            return tape.op(x.numel, x.width, [rectified], [rectified])
        return tape.op(x.numel, x.width, [x], [x])

    def mlp(self, x: Tensor, linears: list[Linear], gated: str) -> Tensor:
        """The dense MLP."""
        if gated == "gate":
            gate = self.activate(self.linear(x, linears[0]))
            inner = self.mul(gate, self.linear(x, linears[1]))
            del gate
            return self.linear(inner, linears[2])
        if gated == "fused":
            up = self.linear(x, linears[0])
            gate = self.tape.op(up.numel // 2, up.width, [up], alias=up)
            half = self.tape.op(up.numel // 2, up.width, [up], alias=up)
            up = self.mul(half, self.activate(gate))
            return self.linear(up, linears[1])
        inner = self.linear(x, linears[0])
        inner = self.activate(inner)
        inner = self.linear(inner, linears[1])
        return self.dropout(inner, 0.0)

    def mixture(self, x: Tensor, some: Experts, linears: list[Linear]) -> Tensor:
        """Experts by grouped matrix products (transformers/integrations/moe.py): tokens are sorted by their expert."""
        tape, set_ = self.tape, self.set
        shared = None
        if some.shared:
            shared = self.mlp(x, linears[2:5], "gate")
        router = tape.weight("gate", some.count * self.shape.hidden, set_.width, self.full)
        scores = self.matmul(x, router, some.count, self.shape.hidden)
        scores = tape.op(scores.numel, 4, [self.cast(scores, 4)], [None])
        pairs = self.tokens * some.chosen
        index = tape.alloc(pairs * SMALL)
        weights = tape.op(pairs, scores.width, [scores], [index], back=0)
        order = tape.alloc(pairs * SMALL)
        picked = tape.op(pairs * self.shape.hidden, x.width, [x], [order])
        up, down = linears[0], linears[1]
        first, last = self._stack(up, some.count), self._stack(down, some.count)
        inner = self._grouped(picked, first, up)
        del picked
        gate = tape.op(inner.numel // 2, inner.width, [inner], alias=inner)
        half = tape.op(inner.numel // 2, inner.width, [inner], alias=inner)
        inner = self.mul(self.activate(gate), half)
        del gate, half
        out = self._grouped(inner, last, down)
        del inner, first, last
        weighted = self.mul(out, weights)
        del out
        back = tape.alloc(pairs * SMALL)
        weighted = tape.op(weighted.numel, weighted.width, [weighted], [back])
        final = tape.op(x.numel, weighted.width, [weighted])
        final = self.cast(final, x.width)
        if shared is not None:
            gate = self.linear(x, linears[5])
            gate = tape.op(gate.numel, gate.width, [gate], [None])
            final = self.add(final, self.mul(gate, shared))
        return final

    def _stack(self, lin: Linear, count: int) -> Tensor:
        """The experts' weights in one tensor; with an adapter a new one, which PEFT adds up in every pass."""
        tape, set_, made = self.tape, self.set, self.set.method
        weight = tape.weight(lin.name, lin.weights * count, set_.width, self.full)
        if made is None or lin.name not in made.targets:
            return weight
        rank = made.rank_of(lin.name)
        sides = [
            self.cast(tape.weight(f"{lin.name}.{side}", rank * size * count, set_.adapter, True), set_.width)
            for side, size in (("A", lin.columns), ("B", lin.rows))
        ]
        return tape.op(weight.numel, set_.width, sides, sides)

    def _grouped(self, x: Tensor, weight: Tensor, lin: Linear) -> Tensor:
        x = self.cast(x, weight.width)
        kept = [weight] * bool(x.node) + [x] * bool(weight.node)
        return self.tape.op(x.numel // lin.columns * lin.rows, weight.width, [x, weight], kept)

    def branch(self, x: Tensor, mlp: bool) -> Tensor:
        """Attention, or the MLP, with what follows it in the layer."""
        block = self.block
        if not mlp:
            out = self.attention(x)
        else:
            rest = self.linears[(2 if block.fused_qkv else 4) :]
            out = self.mixture(x, block.experts, rest) if block.experts else self.mlp(x, rest, block.gated)
        out = self.dropout(out, block.dropout[1])
        return self.scale(out) if block.scaled else out

    def layer(self, x: Tensor) -> Tensor:
        """The whole layer, as its `order` has it."""
        order, hidden = self.block.order, self.shape.hidden
        if order in ("parallel", "parallel-two"):
            first = self.norm("first", x, hidden)
            second = self.branch(first, mlp=False)
            if order == "parallel-two":
                first = self.norm("second", x, hidden)
            third = self.branch(first, mlp=True)
            return self.add(self.add(third, second), x)
        for place, mlp in (("first", False), ("second", True)):
            residual = x
            if order != "post":
                x = self.norm(place, x, hidden)
            x = self.branch(x, mlp)
            if order != "pre":
                x = self.norm(f"after {place}", x, hidden)
            x = self.add(residual, x)
            del residual
        return x
