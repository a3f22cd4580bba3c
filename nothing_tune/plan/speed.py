"""How long a run takes: the operations of its tokens, over what the GPU really does of its data sheet. Pure arithmetic.

Operations are counted as the hardware does them, recomputation included; a multiplication and an addition are two. With P
the weights of the linear layers that a token passes, each token that is computed costs

    forward                          2 P + attention          PaLM, arXiv 2204.02311, appendix B
    gradient by activations          2 P + 2.5 x attention    five products instead of two: FlashAttention-2, arXiv 2307.08691
    gradient by trained weights      2 per trained weight     all of P in full fine-tuning, the adapter's alone in LoRA
    activation checkpointing         another forward          Korthikanti et al., arXiv 2205.05198
    the output layer, V x H          6 V H, 8 V H if trained  TRL 1.16 multiplies supervised positions only, and once more in the
                                                              backward pass (trl/kernels/chunked_logprob.py)

Attention costs 4 x heads x head_dim x length for one token and layer, half of it where what lies in the future is skipped.
Padding is computed like any token, so tokens here are rows x padded length and not what is learned from.

A micro batch takes

    its operations, at the rate that large matrix products reach on this GPU (a fact of its layer), or the reading of all
    weights once a pass where that takes longer (few tokens)
    + what the layers move through memory between the products, for each token

but never less than starting the kernels of all layers takes (small models, short rows), and then unpacks weights of 4 or 8
bits in each pass (QLoRA, arXiv 2305.14314), which no table shows to overlap with either. The constants come from published
tables of other people's trainings, see docs/costs.md; they make a band, and the efficiency that results is told with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nothing_tune.plan.architecture import Linear, Shape, Unlisted, adapter_parameters
from nothing_tune.plan.architecture.adapters import method, trained
from nothing_tune.plan.maths import Maths
from nothing_tune.plan.model import Plan
from nothing_tune.plan.rows import Rows

ASSUMED = {"value": 0.6, "low": 0.4, "high": 0.85}
"""Share of the data sheet's rate that large products reach on a GPU whose layer does not say."""
MIXTURE = {"value": 0.5, "low": 0.25, "high": 0.8}
"""What is left of that where tokens are spread over experts: many small products instead of a large one. Assumed."""
SHORT_ROWS = 4
"""Where no length is known, rows count as long as `max_length`, and in the shortest estimate as long as this part of it."""


@dataclass(frozen=True)
class Rates:
    """What training code does with a machine; three of them make the band.

    Attributes:
        traffic: Bytes that a layer moves for each token, pass and unit of the hidden size, besides its products.
        adapter_traffic: The same that adapters on all linear layers add.
        unpack: Share of the memory bandwidth that unpacking weights reaches.
        launch_s: Seconds to start the kernels of a layer in a pass; the same again for an adapter, and for unpacking.
        scaling: Share of its own speed that each of several processes keeps with an adapter.
        full_scaling: The same in full fine-tuning, where all gradients cross the wire.
        stream: Share of the memory bandwidth that reading weights, or updating them, reaches.
        disk: Bytes a second that a checkpoint is written with.
    """

    traffic: float
    adapter_traffic: float
    unpack: float
    launch_s: float
    scaling: float
    full_scaling: float
    stream: float
    disk: float


EXPECTED = Rates(360, 390, unpack=0.25, launch_s=0.85e-3, scaling=0.92, full_scaling=0.8, stream=0.8, disk=2e8)
"""`traffic`: fitted to Qwen's table (A100, PEFT, 2023: 7B and 14B with LoRA, 1.8B full, 2,048 tokens and more). `unpack` and
`launch_s`: to LitGPT's (A100, 2023) and the short rows of Qwen's. The other four are assumed."""
FAST = Rates(200, 150, unpack=0.7, launch_s=0.35e-3, scaling=0.98, full_scaling=0.92, stream=0.9, disk=1e9)
"""Compiled or fused kernels, a fast processor, GPUs joined by NVLink. Assumed, and bounded by torchtune's and NeMo's tables."""
SLOW = Rates(500, 600, unpack=0.1, launch_s=1.3e-3, scaling=0.75, full_scaling=0.55, stream=0.6, disk=5e7)
"""An old or shared processor, a slow wire, a network disk. Assumed."""
SAVE_S = 1.0
"""Seconds that a checkpoint takes besides writing its bytes (docs/measurements/checkpoint.md: 0.1 to 1 s)."""


@dataclass(frozen=True)
class Speed:
    """How fast a run trains, and how long it takes. Loading the model, downloads and queues are not counted.

    Attributes:
        flops_per_token: Operations of training for one token that is computed, padding included.
        efficiency: Share (0 to 1) of the GPU's dense rate that training is expected to reach, recomputation counted as work.
        low: The least that is likely.
        high: The most that is likely.
        measured: Whether the rate behind it was measured on this GPU; False is an assumption.
        source: What that rate is and where it stands, one clause.
        tokens_per_s: Tokens computed a second while training, padding included, all processes together.
        step_s: Mean seconds of an optimizer step.
        hours: The run, with its evaluations and checkpoints.
        hours_low: The shortest that is likely.
        hours_high: The longest that is likely.
        tokens: Tokens that the run computes, padding included.
        padding: Share of them that is padding; None where unknown.
        length: Tokens that a row is padded to, on average.
        bound: What takes the time: `compute`, `memory` (reading weights) or `launch` (starting kernels).
        evaluation_hours: Of `hours`, what evaluations take.
        saving_hours: Of `hours`, what checkpoints take.
        note: What is not known, one clause; empty where the lengths of the rows are.
    """

    flops_per_token: float
    efficiency: float
    low: float
    high: float
    measured: bool
    source: str
    tokens_per_s: float
    step_s: float
    hours: float
    hours_low: float
    hours_high: float
    tokens: int
    padding: float | None
    length: int
    bound: str
    evaluation_hours: float
    saving_hours: float
    note: str = ""


@dataclass(frozen=True)
class Flops:
    """Operations for one token that is computed: `forward`, then `backward`, and `recomputed` by activation checkpointing."""

    forward: float
    backward: float
    recomputed: float

    @property
    def training(self) -> float:
        """All three together."""
        return self.forward + self.backward + self.recomputed


def flops(shape: Shape, plan: Plan, length: int, supervised: float = 1.0) -> Flops:
    """The operations of a token in rows of `length` tokens, of which the share `supervised` is learned from.

    Args:
        shape: The model.
        plan: Method, attention code and checkpointing.
        length: Tokens of a row as it is computed, padding included, at least 1.
        supervised: Share (0 to 1) of the computed tokens whose prediction is learned.
    """
    weights = sum(x.weights * x.count * x.share for x in shape.linears)
    repeated = _repeated(shape, plan.peft)
    adapter = _multiplied(shape, plan.peft)
    head = shape.vocab * shape.hidden
    attention = 4.0 * shape.heads * shape.head_dim * _attended(shape, plan, length)
    body = 2.0 * (weights + repeated + adapter) + attention
    learned = weights if plan.peft is None else adapter
    head_trains = not plan.peft or "lm_head" in (plan.peft.get("modules_to_save") or ())
    back = 2.0 * (weights + repeated + adapter) + 2.5 * attention + 2.0 * learned
    output = 2.0 * head * supervised
    return Flops(
        forward=body + output,
        backward=back + output * (3 if head_trains else 2),
        recomputed=body if _checkpoints(plan.training) else 0.0,
    )


def speed(
    shape: Shape, plan: Plan, rows: Rows, maths: Maths, measured: float | None = None, measured_source: str = ""
) -> Speed | None:
    """How fast the run of `plan` over `rows` is; None where it cannot be told: no GPU, no rate of it known, no length of rows.

    Args:
        shape: The model.
        plan: What is run.
        rows: What is known of the rows: their padding and lengths; without them each row counts as `max_length`.
        maths: How often what is done.
        measured: The efficiency (share) that runs on this GPU reached, instead of what the GPU's layer says.
        measured_source: Which runs.
    """
    peak, bandwidth = _peak(plan), plan.gpu.get("memory_bandwidth_gbs")
    known = _length(plan, rows, maths)
    if plan.gpu.get("kind") != "cuda" or not peak or not bandwidth or known is None:
        return None
    length, padding, note = known
    work = _Work(shape, plan, rows, maths, length, padding)
    short = replace(work, length=max(length // SHORT_ROWS, 1)) if note else work
    fact = plan.gpu.get("efficiency") or {}
    if measured is None:
        rates = {key: float(fact.get(key) or ASSUMED[key]) for key in ASSUMED}
        source = f"large products at {rates['value'] * 100:.0f} % of the data sheet (gpus/{plan.gpu.get('name')})"
    else:
        rates = {"value": measured, "low": measured * 0.85, "high": min(measured * 1.15, 1.0)}
        source = measured_source or "measured in runs on this GPU"
    if measured is None and any(x.share < 1 for x in shape.linears):
        rates = {key: rate * MIXTURE[key] for key, rate in rates.items()}
    machine = {k: _Machine(peak * 1e12, float(bandwidth) * 1e9, v, measured is not None) for k, v in rates.items()}
    expected = _seconds(work, EXPECTED, machine["value"])
    fast = _seconds(short, FAST, machine["high"])
    slow = _seconds(work, SLOW, machine["low"])
    tokens = work.sequences * length
    return Speed(
        flops_per_token=work.flops().training,
        efficiency=expected.efficiency,
        low=slow.efficiency,
        high=fast.efficiency,
        measured=measured is not None or bool(fact.get("measured")),
        source=source,
        tokens_per_s=tokens / expected.training,
        step_s=expected.training / maths.total,
        hours=expected.all / 3600,
        hours_low=fast.all / 3600,
        hours_high=slow.all / 3600,
        tokens=round(tokens),
        padding=padding,
        length=length,
        bound=expected.bound,
        evaluation_hours=expected.evaluation / 3600,
        saving_hours=expected.saving / 3600,
        note=note,
    )


@dataclass(frozen=True)
class _Machine:
    """Operations and bytes a second of the data sheet, the share of the former that products reach, or (`whole`) training itself."""

    peak: float
    bandwidth: float
    share: float
    whole: bool


@dataclass(frozen=True)
class _Work:
    """A run, and how long its rows are."""

    shape: Shape
    plan: Plan
    rows: Rows
    maths: Maths
    length: int
    padding: float | None

    @property
    def sequences(self) -> float:
        """Rows that all processes train on in the whole run."""
        each = self.maths.sequences - self.maths.dropped
        return min(self.maths.epochs * each, float(self.maths.total * self.maths.global_batch))

    def flops(self) -> Flops:
        """The operations of a token in training."""
        rows = self.rows
        share = rows.supervised / rows.tokens if rows.supervised is not None and rows.tokens else 1.0
        return flops(self.shape, self.plan, self.length, share * (1 - (self.padding or 0.0)))

    @property
    def trained(self) -> int:
        """Parameters that the optimizer updates; 0 where the method's are not known."""
        return adapter_parameters(self.shape, self.plan.peft) or 0

    @property
    def passes(self) -> int:
        """Times that the weights are used in a micro batch: forward, backward, and again where activations are recomputed."""
        return 3 if _checkpoints(self.plan.training) else 2


@dataclass(frozen=True)
class _Seconds:
    """What a run takes in seconds, what bounds its micro batches, and the share of the GPU's rate that this is."""

    training: float
    evaluation: float
    saving: float
    bound: str
    efficiency: float

    @property
    def all(self) -> float:
        return self.training + self.evaluation + self.saving


def _seconds(work: _Work, rates: Rates, machine: _Machine) -> _Seconds:
    plan, maths, operations = work.plan, work.maths, work.flops()
    learned = work.trained
    done = operations.training * maths.micro * work.length
    micro, bound = _pass(work, rates, machine, done, maths.micro, work.passes)
    if maths.world > 1:
        micro /= rates.full_scaling if plan.peft is None else rates.scaling
    update = (
        learned * 32 / (machine.bandwidth * rates.stream)
    )  # weight, gradient and two moments in float32, read and written
    batches = work.sequences / (maths.world * maths.micro)
    training = batches * micro + maths.total * update
    evaluation = 0.0
    if maths.evaluations and work.rows.eval:
        batch = int(plan.training.get("per_device_eval_batch_size") or 8)
        once, _ = _pass(work, rates, machine, operations.forward * batch * work.length, batch, 1)
        evaluation = maths.evaluations.count * max(work.rows.eval / (batch * maths.world), 1) * once
    written = (
        learned * 3 * (4 if plan.trainable_dtype == "float32" or plan.peft is None else 2)
    )  # weights and two moments
    saving = (maths.saves.count if maths.saves else 0) * (SAVE_S + written / rates.disk)
    return _Seconds(training, evaluation, saving, bound, batches * done / (training * machine.peak))


def _pass(work: _Work, rates: Rates, machine: _Machine, operations: float, rows: int, passes: int) -> tuple[float, str]:
    """Seconds of a micro batch of `rows` rows and so many operations, and what bounds them."""
    compute = operations / (machine.peak * machine.share)
    if machine.whole:
        return compute, "compute"
    shape, peft = work.shape, work.plan.peft
    stored = sum(x.weights * x.count for x in shape.linears)
    kept = _bytes_stored(work.plan.quantization)
    read = passes * 2.0 * (stored + shape.vocab * shape.hidden) / (machine.bandwidth * rates.stream)
    launch = passes * shape.layers * rates.launch_s * (1 + (peft is not None) + (kept is not None))
    moved = rates.traffic + rates.adapter_traffic * _covered(shape, peft)
    traffic = passes * rows * work.length * shape.layers * shape.hidden * moved / machine.bandwidth
    unpacked = 0.0
    if kept is not None:
        packed = sum(x.weights * x.count for x in shape.linears if not x.parameter)
        unpacked = passes * packed * (kept + 2.0) / (machine.bandwidth * rates.unpack)
    if peft is not None and peft.get("use_dora"):
        # The norm of weight plus adapter, anew in each forward pass: five tensors of the weight's size in 16 bits (PEFT 0.21).
        weights = sum(x.weights * x.count for x in _targeted(shape, peft))
        traffic += max(passes - 1, 1) * 10.0 * weights / (machine.bandwidth * rates.stream)
    busy = max(compute, read) + traffic
    if launch > busy:
        return launch + unpacked, "launch"
    return busy + unpacked, "compute" if compute >= max(read, traffic + unpacked) else "memory"


def _length(plan: Plan, rows: Rows, maths: Maths) -> tuple[int, float | None, str] | None:
    """Tokens that a row is padded to on average, the share of padding, and what is not known; None where nothing is."""
    training = plan.training
    packed, limit = bool(training.get("packing")), training.get("max_length")
    limit = int(limit) if limit else None
    mean = rows.tokens / rows.sequences if rows.tokens and rows.sequences else None
    grouped = training.get("train_sampling_strategy") == "group_by_length"
    if mean and training.get("padding_free"):
        return max(round(mean), 1), 0.0, ""
    shares = ((rows.report or {}).get("train") or {}).get("padding") or {}
    share = shares.get("packed" if packed else "grouped" if grouped else "plain")
    if mean and share is not None and share < 1 and _as_prepared(rows, maths):
        return max(round(mean / (1 - share)), 1), float(share), ""
    if packed and limit and not maths.exact:
        return limit, None, f"how many sequences packing leaves is unknown: each row counts as {limit:,} tokens"
    typical = rows.typical(maths.micro, limit, packed, grouped)
    if typical:
        return typical, min(max(1 - mean / typical, 0.0), 1.0) if mean else None, ""
    if mean:
        return max(round(mean), 1), None, "how rows are padded is unknown"
    longest = rows.longest or limit
    return (longest, None, f"the length of the rows is unknown: each counts as {longest:,} tokens") if longest else None


def _as_prepared(rows: Rows, maths: Maths) -> bool:
    """Whether the report's padding is that of this micro batch; a report that does not say which it was is that of the recipe."""
    prepared = (rows.report or {}).get("micro_batch")
    return prepared is None or prepared == maths.micro


def _attended(shape: Shape, plan: Plan, length: int) -> float:
    """Tokens that a token's attention is computed over, on average, summed over the layers: all of them where none is skipped."""
    if plan.model.get("init", {}).get("attn_implementation") == "eager":
        return float(length * shape.layers)
    layers = [(block.window, count) for block, count in shape.blocks] or [(shape.window, shape.layers)]
    return sum(count * (w - w * w / (2.0 * length) if w and w < length else length / 2.0) for w, count in layers)


def _peak(plan: Plan) -> float | None:
    """10^12 dense operations a second in the type that the run computes in; None where unknown."""
    name = "tflops_bf16" if plan.training.get("bf16") else "tflops_fp16" if plan.training.get("fp16") else ""
    value = plan.gpu.get(name)
    return float(value) if value else None


def _targeted(shape: Shape, peft: Mapping[str, Any]) -> tuple[Linear, ...]:
    """The linear layers that the adapter is put on; all modules where this cannot be told of the method."""
    modules = tuple(x for x in shape.linears if not x.parameter)
    try:
        names = method(shape, peft).targets
    except Unlisted:
        return modules
    return tuple(x for x in modules if x.name in names)


def _multiplied(shape: Shape, peft: Mapping[str, Any] | None) -> float:
    """Adapter weights that a token is multiplied with; 0 where they cannot be told, for they are few."""
    if peft is None:
        return 0.0
    try:
        return float(trained(shape, method(shape, peft))["adapter"])
    except Unlisted:
        return 0.0


def _covered(shape: Shape, peft: Mapping[str, Any] | None) -> float:
    """Share (0 to 1) of what flows in and out of the linear layers that passes an adapter."""
    if peft is None:
        return 0.0
    width = {x.name: (x.rows + x.columns) * x.count * x.share for x in shape.linears}
    return sum(width[x.name] for x in _targeted(shape, peft)) / max(sum(width.values()), 1)


def _repeated(shape: Shape, peft: Mapping[str, Any] | None) -> float:
    """Weights that a token is multiplied with once more: DoRA's, whose dropout keeps it from using the base's result (PEFT 0.21)."""
    if peft is None or not peft.get("use_dora") or not peft.get("lora_dropout"):
        return 0.0
    return sum(x.weights * x.count * x.share for x in _targeted(shape, peft))


def _bytes_stored(quantization: Mapping[str, Any] | None) -> float | None:
    """Bytes of a quantised weight; None where weights are not quantised."""
    if not quantization:
        return None
    return 0.5 if quantization.get("load_in_4bit") else 1.0 if quantization.get("load_in_8bit") else None


def _checkpoints(training: Mapping[str, Any]) -> bool:
    """Whether activations are recomputed; TRL does so where nothing is written."""
    value = training.get("activation_checkpointing")
    return bool(value if value is not None else training.get("gradient_checkpointing", True))
