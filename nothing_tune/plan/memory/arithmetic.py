"""The peak of one training step, counted: one layer of each kind on a tape, the layers added up, the phases compared. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from nothing_tune.plan.architecture import Block, Shape, Unlisted
from nothing_tune.plan.memory.layers import Layers
from nothing_tune.plan.memory.model import ABOVE, ARITHMETIC, BELOW, CONTEXT, FRAGMENTATION, Estimate
from nothing_tune.plan.memory.notes import BACKWARD, EMBEDDING, FORWARD, LOSS, STEPPING, Counted, notes_of
from nothing_tune.plan.memory.setting import FULL, FUSED, Setting, setting
from nothing_tune.plan.memory.tape import ACTIVATIONS, GRADIENTS, LOGITS, Storage, Tape, Tensor
from nothing_tune.plan.memory.weights import adapter_bytes, gradient_bytes, optimizer_bytes, weight_bytes
from nothing_tune.plan.model import Plan

TILE_TOKENS, TILE_COLUMNS = 4096, 32768
"""The fused output layer's tile (trl 1.16: kernels/chunked_logprob.TOKEN_CHUNK_SIZE, trainer/utils._CHUNKED_LOGPROB_CHUNK_SIZE)."""

Kinds = tuple[int, int, int]
"""Bytes of (activations, gradients, logits)."""
LOGITS_AT = 2
WIDE = 1.03
"""Times the counted bytes from which what a batch may meet besides makes the band wide enough for a word."""


@dataclass(frozen=True)
class Piece:
    """What a piece of the step (a layer, the loss) does to memory, in bytes above what was there before it.

    Attributes:
        forward: The most while it runs forward.
        kept: What stays after it: for its backward pass, and for others.
        casts: Of `kept`, autocast's copies of weights, which go at the end of the forward pass.
        backward: The most while its backward pass runs, counted from before its forward pass.
        left: What stays after its backward pass (gradients).
        width: Bytes of an element of its output.
    """

    forward: Kinds
    kept: Kinds
    casts: int
    backward: Kinds
    left: Kinds
    width: int


def estimate(shape: Shape, plan: Plan, rows: int, length: int, loss: str = FUSED) -> Estimate:
    """The peak of GPU memory of a training step of `plan` on `rows` x `length` tokens, all of them supervised.

    Args:
        rows: Sequences in the micro batch; with packing or padding-free training they lie in one row.
        length: Tokens of the longest.
        loss: `fused` as TRL 1.16 makes it; `full` for TRL until 1.6, to compare with older measurements.

    Raises:
        Unlisted: The method, the optimizer, the type or the attention is not known here.
    """
    set_ = setting(shape, plan, loss)
    if rows < 1 or length < 1:
        raise Unlisted("a batch needs a row and a token")
    if plan.training.get("packing") or plan.training.get("padding_free"):
        rows, length = 1, rows * length
    counted = _counted(shape, set_, rows, length)
    terms = dict(counted.terms)
    allocated = sum(terms.values())
    terms["context"] = CONTEXT
    terms["fragmentation"] = int(allocated * FRAGMENTATION)
    peak = sum(terms.values())
    others = [(_counted(shape, other, rows, length).allocated, other) for other in _worse(shape, set_, plan, rows)]
    worst, met = max([(allocated, set_), *others], key=lambda pair: pair[0])
    low = CONTEXT + int(allocated * (1 - BELOW))
    high = CONTEXT + int(worst * (1 + ABOVE) * (1 + FRAGMENTATION))
    notes = notes_of(shape, plan, set_, counted, met if worst > WIDE * allocated else None)
    return Estimate(terms, peak, low, high, rows, length, ARITHMETIC, notes)


def _worse(shape: Shape, set_: Setting, plan: Plan, rows: int) -> list[Setting]:
    """What a batch may meet besides: padding, and on GPUs before Ampere no fused kernel for shared key and value heads.

    There FlashAttention does not run, and PyTorch 2.13's memory-efficient kernel takes no fewer key and value heads than
    queries (sdp_utils.cpp), which transformers leaves as they are where there is no mask.
    """
    if set_.attention != "sdpa":
        return [set_]
    out = [replace(set_, padding=True)] if rows > 1 else [set_]
    capability = str(plan.gpu.get("compute_capability") or "")
    if capability and int(capability.split(".")[0]) < 8 and shape.heads > shape.kv_heads and not set_.block_mask:
        out.append(replace(set_, attention="math"))
    return out


@lru_cache(maxsize=512)
def _counted(shape: Shape, set_: Setting, rows: int, length: int) -> Counted:
    weights, adapters = weight_bytes(shape, set_), adapter_bytes(shape, set_)
    states, stepping = optimizer_bytes(shape, set_)
    gradients = gradient_bytes(shape, set_)
    buckets = gradients if set_.world > 1 else 0  # DDP's, besides the gradients themselves
    passes, moment, scored = _passes(shape, set_, rows, length, gradients if set_.accumulate else 0)
    step: Kinds = (0, gradients, 0)
    if sum(step) + stepping > sum(passes):
        peak, extra, moment = step, stepping, STEPPING
    else:
        peak, extra = passes, 0
    terms = (
        ("weights", weights),
        ("adapters", adapters),
        ("gradients", peak[1] + buckets),
        ("optimizer", states + extra),
        ("activations", peak[0]),
        ("logits", peak[2]),
    )
    return Counted(terms, moment, scored)


def _passes(shape: Shape, set_: Setting, rows: int, length: int, standing: int) -> tuple[Kinds, str, int]:
    """The most bytes of activations, gradients and logits over both passes, when that is, and what the loss alone takes."""
    tokens = rows * length
    trains = set_.checkpoint or set_.method is None or bool(set_.method.saved and "embed_tokens" in set_.method.saved)
    # input ids, labels and attention mask; cos and sin; the embedding's output
    carried = 3 * tokens * 8 + 2 * length * shape.head_dim * set_.width
    masks = _masks(shape, set_, rows, length)
    start: Kinds = (carried + masks, standing, 0)
    most: tuple[Kinds, str] = start, FORWARD
    width = set_.width
    live = _plus(start, (tokens * shape.hidden * width, 0, 0))
    line: list[tuple[Piece, Kinds]] = []
    casts = 0
    pieces: dict[tuple[int, int, bool], Piece] = {}
    for number, (block, count) in enumerate(shape.blocks):
        for _ in range(count):
            piece = pieces.get((number, width, trains))
            if piece is None:
                piece = pieces[number, width, trains] = _layer(shape, block, set_, rows, length, width, trains)
            line.append((piece, live))
            most = _larger(most, _plus(live, piece.forward), FORWARD)
            live = _plus(live, piece.kept)
            casts += piece.casts
            width, trains = piece.width, True
    head = _head(shape, set_, rows, length, width)
    most = _larger(most, _plus(live, head.forward), LOSS)
    # the forward pass ends: autocast forgets its copies, but those that autograd keeps stay
    freed = 0 if not set_.checkpoint else casts
    live = _plus(live, (-freed, 0, 0))
    most = _larger(most, _plus(live, head.backward), LOSS)
    grown = head.left
    gone = 0
    for piece, before in reversed(line):
        gone += piece.casts if set_.checkpoint else 0
        here = _plus(_plus(before, grown), (-(freed - gone), 0, 0) if set_.checkpoint else (0, 0, 0))
        most = _larger(most, _plus(here, piece.backward), BACKWARD)
        grown = _plus(grown, piece.left)
    if set_.method is None or (set_.method and "embed_tokens" in set_.method.saved):
        own = shape.embedding * (set_.width if set_.method is None else set_.saved)
        last = _plus(_plus(start, grown), (tokens * shape.hidden * width, own, 0))
        most = _larger(most, last, EMBEDDING)
    return *most, max(head.forward[LOGITS_AT], head.backward[LOGITS_AT])


def _larger(most: tuple[Kinds, str], other: Kinds, moment: str) -> tuple[Kinds, str]:
    return (other, moment) if sum(other) > sum(most[0]) else most


def _masks(shape: Shape, set_: Setting, rows: int, length: int) -> int:
    """Attention masks that all layers share: one byte a pair for sdpa, the model's type for eager attention."""
    kinds = {block.window is not None for block, _ in shape.blocks}
    if set_.attention == "eager":
        return len(kinds) * rows * length**2 * set_.width
    if set_.attention == "sdpa":
        if set_.block_mask or set_.padding:
            return len(kinds) * rows * length**2
        if shape.window is not None and length > shape.window:
            return rows * length**2
    return 0


def _layer(shape: Shape, block: Block, set_: Setting, rows: int, length: int, width: int, trains: bool) -> Piece:
    """One decoder layer, its input `width` bytes an element; `trains`: a gradient flows into it."""
    tokens = rows * length
    numel = tokens * shape.hidden
    if set_.checkpoint:
        tape = Tape(grad=False, amp=set_.amp)
        x = tape.input(numel, width, trains)
        base = tape.memory.total
        tape.memory.mark()
        y = Layers(tape, shape, block, set_, rows, length).layer(x)
        casts = sum(t.bytes for t in tape.casts.values())
        out = y.width
        forward = (tape.memory.peak - base, 0, 0)
        kept: Kinds = (numel * out + casts, 0, 0)  # the input is kept, and the output is the next one's
        del y, x
    tape = Tape(amp=set_.amp, accumulate=set_.accumulate)
    x = tape.input(numel, width, trains)
    base = tape.memory.total
    tape.memory.mark()
    y = Layers(tape, shape, block, set_, rows, length).layer(x)
    if not set_.checkpoint:
        casts = sum(t.bytes for t in tape.casts.values())
        out = y.width
        forward = (tape.memory.peak - base, 0, 0)
        del x
        kept = (tape.memory.total - base, 0, 0)
        tape.memory.mark()
    else:
        del x
    tape.casts.clear()
    grad = y.node
    size = y.bytes
    del y
    if grad is not None:
        grad.grad = Storage(tape.memory, size)
    del grad
    tape.walk()
    at = tape.memory.at_peak
    left = tape.memory.live
    return Piece(
        forward=forward,
        kept=kept,
        casts=casts,
        backward=(at[ACTIVATIONS] - base, at[GRADIENTS], at[LOGITS]),
        left=(0, left[GRADIENTS], 0),
        width=out,
    )


def _head(shape: Shape, set_: Setting, rows: int, length: int, width: int) -> Piece:
    """The last norm, the output layer and the loss, and their backward pass."""
    tokens = rows * length
    tape = Tape(amp=set_.amp, accumulate=set_.accumulate)
    block = shape.blocks[0][0]
    layers = Layers(tape, shape, block, set_, rows, length)
    x = tape.input(tokens * shape.hidden, width, True)
    base = tape.memory.total
    tape.memory.mark()
    hidden = layers.norm("final", x, shape.hidden)
    del x
    logits: Tensor | None = None
    if set_.loss == FULL:
        loss, logits = _full_loss(tape, layers, shape, set_, hidden)
    else:
        loss = _fused_loss(tape, shape, set_, hidden)
    del hidden
    peak = tape.memory.at_peak
    forward = (peak[ACTIVATIONS] - base, peak[GRADIENTS], peak[LOGITS])
    tape.memory.mark()
    tape.backward(loss)
    del logits
    at, left = tape.memory.at_peak, tape.memory.live
    return Piece(
        forward=forward,
        kept=(0, 0, 0),
        casts=0,
        backward=(at[ACTIVATIONS] - base, at[GRADIENTS], at[LOGITS]),
        left=(0, left[GRADIENTS], 0),
        width=width,
    )


def _output_trains(set_: Setting) -> bool:
    made = set_.method
    return made is None or bool({"lm_head", "embed_out"} & set(made.saved))


def _fused_loss(tape: Tape, shape: Shape, set_: Setting, hidden: Tensor) -> Tensor:
    """TRL's fused output layer: logits exist a tile at a time, forward and again backward."""
    tokens, compute = hidden.numel // shape.hidden, set_.amp or hidden.width
    trains = _output_trains(set_)
    width = set_.saved if trains and set_.method else set_.width
    picked = tape.op(hidden.numel, hidden.width, [hidden], back=hidden.bytes)  # only supervised positions are scored
    picked_index = tape.alloc(tokens * 16)
    columns = min(TILE_COLUMNS, shape.vocab)
    tile = min(tokens, TILE_TOKENS) * TILE_COLUMNS * compute
    tile += min(tokens, TILE_TOKENS) * shape.hidden * compute if picked.width != compute else 0
    tile += columns * shape.hidden * compute if width != compute else 0
    statistics = tape.alloc(tokens * 4 * 12, LOGITS)
    # gradients are added up in float32, and cast where the tensor has another type
    back = tile + (tokens * shape.hidden * 4 if picked.width != 4 else 0)
    back += shape.embedding * 4 if trains and width != 4 else 0
    weight = tape.weight("output", shape.embedding, width, trains)
    return tape.op(
        tokens, 4, [picked, weight], [picked, statistics, picked_index], temporary=tile, back=back, kind=LOGITS
    )


def _full_loss(tape: Tape, layers: Layers, shape: Shape, set_: Setting, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Every logit at once, in float32, then their logarithmic softmax; the caller holds the logits until the step is over."""
    tokens = hidden.numel // shape.hidden
    trains = _output_trains(set_)
    weight = tape.weight("output", shape.embedding, set_.width, trains)
    compute = set_.amp or hidden.width
    hidden = layers.cast(hidden, compute)
    logits = tape.op(tokens * shape.vocab, compute, [hidden, weight], [hidden] * trains, kind=LOGITS)
    wide = tape.op(logits.numel, 4, [logits], kind=LOGITS) if compute != 4 else logits
    del logits
    soft = tape.op(wide.numel, 4, [wide], [None], kind=LOGITS)
    return tape.op(1, 4, [soft], kind=LOGITS), wide


def _plus(a: Kinds, b: Kinds) -> Kinds:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
